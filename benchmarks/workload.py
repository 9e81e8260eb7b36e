"""What every server is given: a VAE 784-500-500-50-500-500-784 over bits with seeded weights, and rows to score."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod.training import recipes
from elbod_store import Draft
from load import Request

NAME = "bench"
X_DIM = 784
BLUEPRINT = Blueprint(
    family="vae",
    spec={"latent_dim": 50, "hidden": [500, 500], "activation": "relu"},
    likelihood="bernoulli",
    event_shape=(X_DIM,),
    levels=2,
)
SAFETENSORS = "application/x-safetensors"


def draft(seed: int = 0) -> Draft:
    """An untrained version of the benchmark's model, its weights decided by the seed."""
    return as_draft(NAME, untrained(BLUEPRINT, seed))


def recipe_blueprint(name: str) -> Blueprint:
    """The model of a recipe for digits or Fashion-MNIST."""
    recipe = recipes.recipe(name)
    return Blueprint(
        family=recipe.family,
        spec=recipe.spec,
        likelihood=recipe.likelihood,
        event_shape=(8, 8) if recipe.data == "digits" else (28, 28),
        levels=recipe.levels or 2,
        binarization=recipe.binarization,
    )


def untrained(blueprint: Blueprint, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = checkpoint.build(blueprint)
    generator.initialize(torch.from_numpy(random_rows(64, blueprint.event_shape, blueprint.levels or 2)).float())
    return generator


def convolutional_vae(weights: int) -> Generator:
    """The smallest convolutional VAE of digits with at least `weights` weights."""
    for width in range(8, 1024, 2):
        spec = {"latent_dim": 12, "network": "conv", "channels": [width], "blocks": 2}
        blueprint = replace(recipe_blueprint("digits"), spec=spec)
        generator = untrained(blueprint)
        if sum(p.numel() for p in generator.parameters()) >= weights:
            return generator
    raise ValueError(f"no VAE of {weights:,} weights")


def as_draft(name: str, generator: Generator) -> Draft:
    blueprint = generator.blueprint
    return Draft(
        name=name,
        family=blueprint.family,
        spec=checkpoint.canonical_spec(blueprint),
        likelihood=blueprint.likelihood,
        event_shape=blueprint.event_shape,
        levels=blueprint.levels,
        binarization=blueprint.binarization,
        labels=blueprint.labels,
        weights=checkpoint.save(generator),
    )


def random_rows(n: int, event_shape: tuple[int, ...] = (X_DIM,), levels: int = 2, dtype: Any = np.uint8) -> np.ndarray:
    """(n, *event_shape): bits, a quarter of them ones, or whole numbers below `levels`."""
    uniform = np.random.default_rng(0).random((n, *event_shape))
    return ((uniform < 0.25) if levels == 2 else uniform * levels).astype(np.uint8).astype(dtype)


@cache
def rows(n: int, dtype: Any = np.uint8) -> np.ndarray:
    """(n, 784) bits for the benchmark's model."""
    return random_rows(n, dtype=dtype)


def as_json(n: int, path: str = "/elbo") -> Request:
    """{"x": [[0.0, 1.0, ...], ...]}: what `json.dumps` makes of an array of floats."""
    return Request(path, json.dumps({"x": rows(n, np.float32).tolist()}).encode())


def as_inference_protocol(n: int, path: str) -> Request:
    """The same rows as a tensor of the Open Inference Protocol, flat as its documentation recommends."""
    x = rows(n, np.float32)
    tensor = {"name": "x", "shape": [n, X_DIM], "datatype": "FP32", "data": x.ravel().tolist()}
    return Request(path, json.dumps({"inputs": [tensor]}).encode())


def as_safetensors(n: int, dtype: Any = np.float32, path: str = "/elbo", **fields: object) -> Request:
    """elbod's binary body."""
    return _packed(rows(n, dtype), path, **fields)


def of_recipe(n: int, recipe: str) -> Request:
    """Rows to score by an untrained model of that recipe."""
    blueprint = recipe_blueprint(recipe)
    return _packed(random_rows(n, blueprint.event_shape, blueprint.levels or 2), "/elbo", model=recipe)


def _packed(x: np.ndarray, path: str, **fields: object) -> Request:
    code = {"float32": "F32", "uint8": "U8"}[x.dtype.name]
    header = {
        "__metadata__": {"request": json.dumps(fields)},
        "x": {"dtype": code, "shape": list(x.shape), "data_offsets": [0, x.nbytes]},
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return Request(path, len(raw).to_bytes(8, "little") + raw + x.tobytes(), SAFETENSORS)


def read_scores(body: bytes, media_type: str) -> np.ndarray:
    """The ELBO of each row in any server's answer."""
    if media_type == SAFETENSORS:
        from safetensors.numpy import load

        return load(body)["elbo"]
    found = json.loads(body)
    if isinstance(found, dict):
        found = found["outputs"][0]["data"] if "outputs" in found else found["elbo"]
    return np.asarray(found, np.float64).ravel()
