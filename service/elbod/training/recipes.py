"""Recipes: everything but the seed and the data's bytes that decides a training run, as one frozen value."""

import contextlib
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from elbod.generators.checkpoint import InvalidCheckpoint, families, family
from elbod.generators.likelihoods import LIKELIHOODS
from elbod.training.errors import InvalidRecipe
from elbod.training.splits import Binarization


def _check_size(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRecipe(f"{key} must be finite, got {value}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InvalidRecipe(f"{key} must be below 2^63")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained. Epochs count visits of every training row; lengths in epochs may be fractions.

    `levels` None means: for discrete likelihoods, the data's maximum plus one. `protocol` says who decides the parts of
    the data: the rows' own hash, or a published benchmark.
    """

    name: str
    data: str
    family: str
    likelihood: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    protocol: Literal["hash", "fashion-mnist-binary", "fashion-mnist-8bit"] = "hash"
    levels: int | None = None
    binarization: Binarization | None = None
    image_size: int | None = None  # pixels that image files are resized to
    # The most rows of each held-out part that are used, the first ones: scoring a chain takes a pass for each level.
    held_out_rows: int | None = None

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0  # the learning rate rises linearly, then falls along a cosine
    weight_decay: float = 0.0
    kl_warmup_epochs: float = 0.0  # the training objective's beta rises linearly to 1
    # The last epochs maximise the importance-weighted bound of so many draws a row in place of the ELBO.
    importance_epochs: float = 0.0
    importance_draws: int = 5
    clip_norm: float = 100.0
    ema_decay: float = 0.999
    evaluate_every: int = 1  # epochs between held-out bounds
    patience: int | None = None  # evaluations without a better held-out bound before training stops
    max_skipped_in_a_row: int = 20  # steps with a non-finite loss
    threads: int = 1  # intra-op threads on the CPU: small networks are slower on several, and busy cores make it worse

    # Of float32 matrix products while training. "medium": factors in bfloat16 and sums in float32, on machines that
    # have such products in hardware, and the same as "highest" elsewhere. Bounds are always evaluated in "highest".
    matmul_precision: Literal["highest", "medium"] = "highest"
    # Layers and what flows between them in bfloat16 while training; weights, densities and sums in float32. On machines
    # that have such products in hardware convolutions run several times as fast.
    autocast: bool = False

    num_samples: int = 16  # draws a row of the published held-out bound
    num_importance_samples: int = 128

    def __post_init__(self) -> None:
        """Raises InvalidRecipe for a value out of range."""
        for key, value in {**vars(self), **self.spec}.items():
            _check_size(key, value)
        positive = ("epochs", "batch_size", "learning_rate", "clip_norm", "evaluate_every", "max_skipped_in_a_row")
        for key in (*positive, "num_samples", "patience", "threads", "importance_draws", "image_size"):
            if (value := getattr(self, key)) is not None and not value > 0:
                raise InvalidRecipe(f"{key} must be positive, got {value}")
        for key in ("warmup_epochs", "weight_decay", "kl_warmup_epochs", "importance_epochs", "num_importance_samples"):
            if not getattr(self, key) >= 0:
                raise InvalidRecipe(f"{key} must not be negative, got {getattr(self, key)}")
        if self.held_out_rows is not None and self.held_out_rows < 2:
            raise InvalidRecipe(f"held_out_rows must be at least 2, got {self.held_out_rows}: the bound has an error")
        if not 0 <= self.ema_decay < 1:
            raise InvalidRecipe(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")
        if self.binarization is not None and self.likelihood != "bernoulli":
            raise InvalidRecipe(f"binarized data have a bernoulli likelihood, not {self.likelihood!r}")


_DIGITS = Recipe(
    name="digits",
    data="digits",
    family="vae",
    likelihood="discretized_logistic",
    levels=17,
    spec={"latent_dim": 12, "hidden": (256, 256), "dropout": 0.1},
    epochs=180,
    learning_rate=3e-3,
    kl_warmup_epochs=50,
    evaluate_every=5,
)

# A path is 33 passes of the network: few held-out bounds, of few paths.
_DIGITS_DIFFUSION = Recipe(
    name="digits-diffusion",
    data="digits",
    family="diffusion",
    likelihood="discretized_logistic",
    levels=17,
    spec={"network": "conv", "channels": (32,), "blocks": 3, "dropout": 0.2},
    epochs=90,
    learning_rate=6e-3,
    warmup_epochs=2.0,
    weight_decay=0.1,
    ema_decay=0.99,
    evaluate_every=30,
    num_samples=1,
    num_importance_samples=16,
)
_DIGITS_LABELS_DIFFUSION = replace(
    _DIGITS_DIFFUSION, name="digits-labels-diffusion", spec={**_DIGITS_DIFFUSION.spec, "label_dropout": 0.1}
)

_FASHION = Recipe(
    name="fashion-mnist-binary",
    data="fashion-mnist",
    family="vae",
    likelihood="bernoulli",
    protocol="fashion-mnist-binary",
    binarization="stochastic",
    spec={"latent_dim": 40, "hidden": (300, 300), "activation": "gated"},  # as published
    epochs=20,
    learning_rate=3e-3,
    # Without it three quarters of the latent dimensions are never used.
    kl_warmup_epochs=10,
    matmul_precision="medium",
    num_samples=1,
    num_importance_samples=64,
)

# Towards the published figures, which are of the importance-weighted bound: the last epochs maximise it. Wide batches
# take as many epochs as narrow ones, and less time for each.
_FASHION_LONG = replace(
    _FASHION,
    name="fashion-mnist-binary-long",
    epochs=900,
    batch_size=256,
    kl_warmup_epochs=50,
    importance_epochs=180,
    weight_decay=0.02,
    evaluate_every=25,
    autocast=True,
    num_importance_samples=500,
)

# A path is 129 passes, 0.2 s of a core: few rows are scored.
_FASHION_DIFFUSION = replace(
    _FASHION,
    name="fashion-mnist-binary-diffusion",
    family="diffusion",
    spec={
        "num_levels": 128,
        "gamma_min": -3.0,
        "gamma_max": 6.0,
        "network": "conv",
        "channels": (48, 96),
        "patch": 2,
        "blocks": 2,
        "dropout": 0.0,
    },
    epochs=30,
    batch_size=64,
    learning_rate=2e-3,
    weight_decay=0.01,
    kl_warmup_epochs=0,
    evaluate_every=10,
    held_out_rows=1000,
    autocast=True,
    matmul_precision="highest",
    num_importance_samples=8,
)

# Every element has 256 levels at every pass: 5 ms of a core for a row, so a path is of fewer levels of noise.
_FASHION_8BIT_DIFFUSION = replace(
    _FASHION_DIFFUSION,
    name="fashion-mnist-8bit-diffusion",
    protocol="fashion-mnist-8bit",
    likelihood="discretized_logistic",
    binarization=None,
    levels=256,
    spec={**_FASHION_DIFFUSION.spec, "num_levels": 64, "gamma_min": -8.0, "channels": (40, 80)},
    epochs=8,
    evaluate_every=4,
    held_out_rows=300,
    num_importance_samples=4,
)

_CONVOLUTIONAL = {"latent_dim": 40, "network": "conv", "channels": (32, 64), "blocks": 1}
_FASHION_CONV = replace(
    _FASHION,
    name="fashion-mnist-binary-conv",
    spec=_CONVOLUTIONAL,
    epochs=25,
    batch_size=64,
    learning_rate=2e-3,
    weight_decay=0.01,
    kl_warmup_epochs=5,
    autocast=True,
    matmul_precision="highest",
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _DIGITS,
        replace(_DIGITS, name="digits-labels", family="cvae"),
        _DIGITS_DIFFUSION,
        _DIGITS_LABELS_DIFFUSION,
        _FASHION,
        _FASHION_LONG,
        replace(
            _FASHION_LONG,
            name="fashion-mnist-binary-vamp",
            spec={**_FASHION_LONG.spec, "prior": "vamp", "pseudo_inputs": 500},
            epochs=450,
            weight_decay=0.03,
            kl_warmup_epochs=40,
            importance_epochs=0,
            autocast=False,
        ),
        _FASHION_DIFFUSION,
        _FASHION_8BIT_DIFFUSION,
        _FASHION_CONV,
        replace(
            _FASHION_CONV,
            name="fashion-mnist-binary-ladder",
            family="ladder",
            spec={"channels": (32, 64), "groups": (1, 4), "latent_channels": (2, 8), "blocks": 1},
            epochs=24,
            learning_rate=1.5e-3,
            evaluate_every=2,
        ),
        replace(
            _FASHION_CONV,
            name="fashion-mnist-8bit",
            protocol="fashion-mnist-8bit",
            likelihood="discretized_logistic_mixture",
            binarization=None,
            levels=256,
            epochs=20,
            kl_warmup_epochs=2,
        ),
    )
}

_FIXED = {"name", "data", "family", "likelihood", "protocol", "spec"}


def recipe(name: str) -> Recipe:
    """The recipe of that name; InvalidRecipe lists the known ones."""
    try:
        return RECIPES[name]
    except KeyError:
        raise InvalidRecipe(f"unknown recipe {name!r}: one of {', '.join(sorted(RECIPES))}") from None


def custom(family_name: str, likelihood: str, data: str) -> Recipe:
    """A recipe for data of one's own, named after their file."""
    if family_name not in families():
        raise InvalidRecipe(f"unknown family {family_name!r}: one of {', '.join(families())}")
    if likelihood not in LIKELIHOODS:
        raise InvalidRecipe(f"unknown likelihood {likelihood!r}: one of {', '.join(sorted(LIKELIHOODS))}")
    spec = {"latent_dim": 16} if "latent_dim" in _spec_types(family_name) else {}
    name = re.sub("[^a-z0-9_-]+", "-", Path(data).stem.lower()).strip("-_")[:64]
    return Recipe(name=name or family_name, data=data, family=family_name, likelihood=likelihood, spec=spec)


def override(base: Recipe, settings: Iterable[str]) -> Recipe:
    """`base` with `key=value` settings: a field of the recipe or of its family's spec, validated as that type.

    Values are read as JSON, else as text; `none` is None and `300,300` a list.
    """
    own = _own_types()
    spec_types = _spec_types(base.family)
    changes: dict[str, Any] = {}
    spec = dict(base.spec)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidRecipe(f"--set {setting}: write it as key=value")
        if key in own:
            changes[key] = _parse(key, text, own[key])
        elif key in spec_types:
            spec[key] = _parse(key, text, spec_types[key])
        else:
            raise InvalidRecipe(
                f"--set {setting}: unknown key {key!r}: one of {', '.join(sorted({*own, *spec_types}))}"
            )
    return replace(base, spec=spec, **changes)


def command_line(made: Recipe, seed: int) -> str:
    """The command that trains by this recipe again: `elbod train --recipe digits --seed 0 --set epochs=3`."""
    base = RECIPES.get(made.name)
    if base is not None and _overrides(base, made):
        source = ["--recipe", base.name, *(["--data", made.data] if made.data != base.data else [])]
    else:
        base = custom(made.family, made.likelihood, made.data)
        source = ["--family", made.family, "--likelihood", made.likelihood, "--data", made.data]
    settings = [part for setting in _differences(base, made) for part in ("--set", setting)]
    return shlex.join(["elbod", "train", *source, "--seed", str(seed), *settings])


def _overrides(base: Recipe, made: Recipe) -> bool:
    """Whether settings alone make `made` of `base`; they can change and add keys of the spec, and remove none.

    Not so for data of one's own in a file that happens to have a recipe's name.
    """
    fixed = all(getattr(base, key) == getattr(made, key) for key in ("family", "likelihood", "protocol"))
    return fixed and base.spec.keys() <= made.spec.keys()


def _differences(base: Recipe, made: Recipe) -> list[str]:
    """The settings, as `key=value`, that `made` has and `base` has not."""
    before, after = ({**{key: getattr(r, key) for key in _own_types()}, **r.spec} for r in (base, made))
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    return [f"{key}={_text(value)}" for key, value in changed.items()]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _own_types() -> dict[str, Any]:
    return {item.name: item.type for item in fields(Recipe) if item.name not in _FIXED}


def _spec_types(family_name: str) -> dict[str, Any]:
    try:
        return {item.name: item.type for item in fields(family(family_name).Spec)}
    except InvalidCheckpoint as error:
        raise InvalidRecipe(str(error)) from error


def _parse(key: str, text: str, kind: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_json(_json(text), strict=True)
    except ValidationError as first:
        # `300,300`, and `300` where a list of one is meant; `.5`, which is no JSON.
        for value in (text, [part for part in text.split(",") if part]):
            with contextlib.suppress(ValidationError):
                return adapter.validate_python(value)
        raise InvalidRecipe(f"--set {key}={text}: {first.errors()[0]['msg']}") from None


def _json(text: str) -> str:
    """The text itself where it is JSON, else it as a JSON string; `none` is null."""
    if text.lower() == "none":
        return "null"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text)
    return text
