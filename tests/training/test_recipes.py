import shlex

import pytest

from elbod.training import recipes
from elbod.training.errors import InvalidRecipe


def test_settings_override_the_recipe_and_its_spec_with_their_types():
    made = recipes.override(
        recipes.recipe("digits"), ["epochs=7", "learning_rate=1e-4", "hidden=64,32", "latent_dim=5", "patience=none"]
    )

    assert (made.epochs, made.learning_rate, made.patience) == (7, 1e-4, None)
    assert made.spec["latent_dim"] == 5
    assert tuple(made.spec["hidden"]) == (64, 32)
    assert recipes.recipe("digits").epochs != 7


def test_the_recipes_of_the_published_protocol_differ_in_what_they_say():
    short, long, vamp = (recipes.recipe(f"fashion-mnist-binary{end}") for end in ("", "-long", "-vamp"))

    assert short.protocol == long.protocol == vamp.protocol == "fashion-mnist-binary"
    assert {key: value for key, value in long.spec.items() if short.spec.get(key) != value} == {"activation": "gated"}
    assert {key: value for key, value in vamp.spec.items() if long.spec.get(key) != value} == {
        "prior": "vamp",
        "pseudo_inputs": 500,
    }


def test_one_layer_needs_no_comma():
    assert tuple(recipes.override(recipes.recipe("digits"), ["hidden=64"]).spec["hidden"]) == (64,)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "write it as key=value"),
        ("epochs=many", "epochs=many: .*integer"),
        ("epochs=0", "epochs must be positive"),
        ("learning_rate=-1", "learning_rate must be positive"),
        ("learning_rate=nan", "learning_rate must be positive"),
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
    with pytest.raises(InvalidRecipe, match="digits, fashion-mnist-binary"):
        recipes.recipe("digit")
    with pytest.raises(InvalidRecipe, match=r"ppca.*vae"):
        recipes.custom("gan", "gaussian", "a.npz")
    with pytest.raises(InvalidRecipe, match=r"one of bernoulli, categorical.*gaussian"):
        recipes.custom("vae", "poisson", "a.npz")


def test_a_recipe_for_own_data_is_named_after_the_file():
    assert recipes.custom("vae", "gaussian", "/data/My table.v2.npz").name == "my-table-v2"


@pytest.mark.parametrize(
    "made",
    [
        recipes.override(recipes.recipe("digits"), ["epochs=3", "hidden=64,32", "patience=3", "activation=relu"]),
        recipes.override(recipes.recipe("fashion-mnist-binary-vamp"), ["pseudo_inputs=50", "matmul_precision=highest"]),
        recipes.override(recipes.custom("vae", "bernoulli", "my table.npz"), ["binarization=stochastic"]),
        recipes.override(recipes.custom("ppca", "gaussian", "digits.npz"), ["latent_dim=3"]),
    ],
    ids=["recipe", "vamp", "own", "ppca"],
)
def test_the_recorded_command_makes_the_recipe_again(made):
    _, _, *words = shlex.split(recipes.command_line(made, seed=5))
    options = list(zip(words[::2], words[1::2], strict=True))
    given = dict(options)

    base = (
        recipes.recipe(given["--recipe"])
        if "--recipe" in given
        else recipes.custom(given["--family"], given["--likelihood"], given["--data"])
    )

    assert given["--seed"] == "5"
    assert recipes.override(base, [value for key, value in options if key == "--set"]) == made
