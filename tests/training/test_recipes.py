import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod.training import recipes
from elbod.training.errors import InvalidRecipe
from elbod.training.recipes import Recipe


def test_settings_override_the_recipe_and_its_spec_with_their_types():
    made = recipes.override(
        recipes.recipe("digits"), ["epochs=7", "learning_rate=1e-4", "hidden=64,32", "latent_dim=5", "patience=none"]
    )

    assert (made.epochs, made.learning_rate, made.patience) == (7, 1e-4, None)
    assert made.spec["latent_dim"] == 5
    assert tuple(made.spec["hidden"]) == (64, 32)
    assert recipes.recipe("digits").epochs != 7


def test_the_recipes_of_the_published_protocol_share_an_architecture_but_for_the_prior():
    short, long, vamp = (recipes.recipe(f"fashion-mnist-binary{end}") for end in ("", "-long", "-vamp"))

    assert short.protocol == long.protocol == vamp.protocol == "fashion-mnist-binary"
    assert short.spec == long.spec
    assert dict(vamp.spec) == {**long.spec, "prior": "vamp", "pseudo_inputs": 500}


def test_one_layer_needs_no_comma():
    assert tuple(recipes.override(recipes.recipe("digits"), ["hidden=64"]).spec["hidden"]) == (64,)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "write it as key=value"),
        ("epochs=many", "epochs=many: .*integer"),
        ("epochs=0", "epochs must be positive"),
        ("learning_rate=-1", "learning_rate must be positive"),
        ("learning_rate=nan", "learning_rate must be finite"),
        ("clip_norm=inf", "clip_norm must be finite, got inf"),
        ("kl_warmup_epochs=Infinity", "kl_warmup_epochs must be finite"),
        ("warmup_epochs=1e999", "warmup_epochs must be finite"),
        ("dropout=nan", "dropout must be finite"),
        ("num_samples=true", "num_samples=true: .*integer"),
        ("learning_rate=true", "learning_rate=true: .*number"),
        ("latent_dim=true", "latent_dim=true: .*integer"),
        ("hidden=true,8", "hidden=true,8"),
        ("epochs=1000000000000000000000000", "epochs must be below 2\\^63"),
        (f"epochs={'9' * 5000}", "epochs must be below 2\\^63|integer"),
        (f"hidden={'[' * 3000}", "hidden="),
        ("weight_decay=-1", "weight_decay must not be negative"),
        ("ema_decay=1", "ema_decay"),
        ("hidden=wide", "hidden=wide"),
        ("activation=step", "activation=step: .*relu"),
        ("binarization=stochastic", "bernoulli likelihood"),
        ("name=x", "unknown key 'name'"),
        ("wdith=3", "unknown key 'wdith': one of .*epochs.*hidden.*latent_dim"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(setting, message):
    with pytest.raises(InvalidRecipe, match=message):
        recipes.override(recipes.recipe("digits"), [setting])


def test_unknown_recipes_families_and_likelihoods_list_the_known_ones():
    with pytest.raises(InvalidRecipe, match="digits, digits-diffusion, digits-labels, digits-labels-diffusion"):
        recipes.recipe("digit")
    with pytest.raises(InvalidRecipe, match=r"ppca.*vae"):
        recipes.custom("gan", "gaussian", "a.npz")
    with pytest.raises(InvalidRecipe, match=r"one of bernoulli, categorical.*gaussian"):
        recipes.custom("vae", "poisson", "a.npz")


def test_a_recipe_for_own_data_is_named_after_the_file():
    assert recipes.custom("vae", "gaussian", "/data/My table.v2.npz").name == "my-table-v2"


def rebuilt(command: str, seed: int) -> Recipe:
    """The recipe that `elbod train` makes of that command."""
    _, _, *words = shlex.split(command)
    options = list(zip(words[::2], words[1::2], strict=True))
    given = dict(options)
    assert given["--seed"] == str(seed)
    if "--recipe" in given:
        base = recipes.recipe(given["--recipe"])
        base = replace(base, data=given.get("--data", base.data))
    else:
        base = recipes.custom(given["--family"], given["--likelihood"], given["--data"])
    return recipes.override(base, [value for key, value in options if key == "--set"])


@pytest.mark.parametrize(
    "made",
    [
        recipes.override(recipes.recipe("digits"), ["epochs=3", "hidden=64,32", "patience=3", "activation=relu"]),
        recipes.override(recipes.recipe("fashion-mnist-binary-vamp"), ["pseudo_inputs=50", "matmul_precision=highest"]),
        recipes.override(recipes.recipe("fashion-mnist-binary-ladder"), ["groups=2,3", "autocast=false"]),
        recipes.override(recipes.custom("vae", "bernoulli", "my table.npz"), ["binarization=stochastic"]),
        recipes.override(recipes.custom("ppca", "gaussian", "digits.npz"), ["latent_dim=3"]),
        recipes.override(recipes.custom("vae", "discretized_logistic", "d/digits.npz"), ["latent_dim=2"]),
        recipes.custom("vae", "bernoulli", "fashion-mnist-binary.npz"),
        recipes.override(recipes.custom("mixture", "discretized_logistic", "digits.npy"), ["components=3"]),
        recipes.override(recipes.custom("vae", "bernoulli", "digits.npy"), ["binarization=threshold"]),
        recipes.override(recipes.recipe("digits"), ["hidden=", "levels=none"]),
    ],
    ids=["recipe", "vamp", "ladder", "own", "ppca", "namesake", "protocol", "family", "likelihood", "empty"],
)
def test_the_recorded_command_makes_the_recipe_again(made):
    assert rebuilt(recipes.command_line(made, seed=5), seed=5) == made


numbers = st.floats(1e-9, 1e9)
counts = st.integers(1, 1000)
SETTINGS = {
    "epochs": counts,
    "batch_size": counts,
    "learning_rate": numbers,
    "warmup_epochs": numbers | st.integers(0, 9),
    "patience": counts | st.just("none"),
    "levels": counts | st.just("none"),
    "ema_decay": st.floats(0, 0.999),
    "importance_epochs": numbers | st.integers(0, 9),
    "importance_draws": counts,
    "matmul_precision": st.sampled_from(["highest", "medium"]),
}
VAE = {
    "latent_dim": counts,
    "hidden": st.lists(counts, max_size=3).map(lambda widths: ",".join(map(str, widths))),
    "activation": st.sampled_from(["relu", "gated"]),
    "dropout": st.floats(0, 0.9),
    "prior": st.sampled_from(["normal", "vamp"]),
}
LADDER = {"blocks": counts, "channels": st.lists(counts, min_size=2, max_size=2).map(lambda c: f"{c[0]},{c[1]}")}
CVAE = {key: values for key, values in VAE.items() if key != "prior"}
SPEC_SETTINGS = {
    "vae": VAE,
    "cvae": CVAE,
    "ladder": LADDER,
    "ppca": {"latent_dim": counts},
    "mixture": {"components": counts},
    "diffusion": {
        "num_levels": st.integers(1, 4096),
        "schedule": st.sampled_from(["linear", "cosine", "learned"]),
        "network": st.sampled_from(["mlp", "conv"]),
        "reverse_variance": st.sampled_from(["belief", "fixed"]),
        "dropout": st.floats(0, 0.9),
    },
}
paths = st.sampled_from(["digits", "d/digits.npz", "fashion-mnist-binary.npy", "a b.npz"])


@st.composite
def made_by_commands(draw: st.DrawFn) -> Recipe:
    if draw(st.booleans()):
        base = recipes.recipe(draw(st.sampled_from(sorted(recipes.RECIPES))))
        base = replace(base, data=draw(st.just(base.data) | paths))
    else:
        family = draw(st.sampled_from(["vae", "cvae", "ppca", "mixture", "diffusion"]))
        base = recipes.custom(family, draw(st.sampled_from(["bernoulli", "discretized_logistic"])), draw(paths))
    kinds = SETTINGS | SPEC_SETTINGS[base.family]
    if base.likelihood == "bernoulli":
        kinds = kinds | {"binarization": st.sampled_from(["stochastic", "threshold", "none"])}
    keys = draw(st.lists(st.sampled_from(sorted(kinds)), unique=True))
    return recipes.override(base, [f"{key}={draw(kinds[key])}" for key in keys])


@given(made_by_commands(), st.integers(0, 2**63 - 1))
def test_any_recorded_command_makes_its_recipe_again(made, seed):
    assert rebuilt(recipes.command_line(made, seed), seed) == made
