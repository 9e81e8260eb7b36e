"""From a trained generator to a draft for the model store."""

import json
import math
import platform
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_safetensors

import elbod
from elbod.generators import checkpoint
from elbod.generators.base import Generator
from elbod.generators.bounds import Floats
from elbod.generators.chained import Chained
from elbod.generators.checkpoint import GIVEN_LABEL, MARGINAL
from elbod.generators.evaluation import score_at_mode
from elbod.training.baseline import independent_elements
from elbod.training.card import write_card
from elbod.training.check import check_bounds, check_loadable, check_model
from elbod.training.datasets import Dataset
from elbod.training.loop import Point, conditions
from elbod.training.metrics import held_out_metrics
from elbod.training.recipes import Recipe, command_line
from elbod.training.scoring import Scores, calibration_scores, score, weigh_levels
from elbod.training.splits import Split
from elbod_store import Draft

# The noise of the published numbers; test row i has index i.
TEST_SEED = 0
_REFERENCE_ROWS = 16


@dataclass(frozen=True)
class History:
    """What happened until the weights were taken: `point` is the evaluation of just these weights."""

    point: Point
    curve: tuple[Point, ...]
    steps: int
    skipped_steps: int
    steps_per_second: float  # of training alone
    wall_time: float  # seconds, everything
    run: str
    publication: int  # which of the run's versions it is


@dataclass(frozen=True)
class Material:
    """What a run has for all its versions. `baseline` is the baseline's log p(x) of the test rows."""

    name: str
    recipe: Recipe
    dataset: Dataset
    digest: str
    parts: Split
    baseline: Floats
    seed: int
    device: torch.device

    @classmethod
    def of(
        cls,
        name: str,
        recipe: Recipe,
        dataset: Dataset,
        parts: Split,
        generator: Generator,
        seed: int,
        device: torch.device,
    ) -> "Material":
        grey = recipe.binarization == "stochastic" and parts.train.dtype == np.uint8
        baseline = independent_elements(parts.train, parts.test, generator.likelihood, top=255.0 if grey else 1.0)
        return cls(name, recipe, dataset, dataset.digest, parts, baseline, seed, device)


def make_draft(generator: Generator, material: Material, history: History) -> Draft:
    """Score the test rows and describe the version. Raises RefusedModel; writes nothing."""
    recipe, blueprint = material.recipe, generator.blueprint
    generator = generator.to(material.device)
    test, unseen = (
        torch.from_numpy(rows).to(material.device) for rows in (material.parts.test, material.parts.calibration)
    )
    label, unseen_label = (
        None if labels is None else torch.from_numpy(labels).to(material.device)
        for labels in conditions(generator, material.parts.labels, "test", "calibration")
    )
    draws = (recipe.num_samples, recipe.num_importance_samples)
    scores = score(generator, test, TEST_SEED, *draws)
    given = None if label is None else score(generator, test, TEST_SEED, *draws, label=label)
    for found in (scores, given):
        if found is not None:
            check_bounds(found.elbo)
    check_model(generator, test, label)
    calibration = _named(MARGINAL, calibration_scores(generator, unseen))
    if unseen_label is not None:
        calibration |= _named(GIVEN_LABEL, calibration_scores(generator, unseen, unseen_label))
    metrics = held_out_metrics(scores, material.baseline, generator, TEST_SEED, *draws, given_label=given)
    if isinstance(generator, Chained):
        metrics["kl_per_level"] = weigh_levels(generator, unseen, unseen_label).tolist()
    generator = generator.cpu()
    check_loadable(generator)
    return Draft(
        name=material.name,
        family=blueprint.family,
        spec=checkpoint.canonical_spec(blueprint),
        likelihood=blueprint.likelihood,
        event_shape=blueprint.event_shape,
        weights=checkpoint.save(generator),
        levels=blueprint.levels,
        binarization=blueprint.binarization,
        labels=blueprint.labels,
        calibration=save_safetensors(calibration),
        reference=reference_rows(generator, material.parts, scores if given is None else given, recipe),
        metrics=metrics,
        training=training_record(material, history),
        card=write_card(
            material.name,
            recipe,
            generator,
            material.dataset,
            material.digest,
            material.parts,
            metrics,
            command_line(recipe, material.seed),
        ),
    )


@torch.inference_mode()
def reference_rows(generator: Generator, parts: Split, scores: Scores, recipe: Recipe) -> bytes:
    """The first test rows with their scores, as safetensors: a request's tensors and the answer's.

    Those of a conditional model are scored given their labels.

    The metadata's `request` is the body of the /elbo request that gives these numbers again, up to the rounding of
    another machine. `reconstruction_at_mode` is `evaluation.score_at_mode`, which needs no noise.
    """
    x = parts.test[:_REFERENCE_ROWS]
    rows = torch.from_numpy(x)
    tensors = {"x": x}
    label = None
    if (labels := conditions(generator, parts.labels, "test")[0]) is not None:
        tensors["label"] = labels[: len(x)].copy()
        label = torch.from_numpy(tensors["label"])
    tensors["reconstruction_at_mode"] = score_at_mode(generator, rows, label).numpy()
    columns: dict[str, Any] = asdict(scores.elbo)
    if scores.importance is not None:
        columns |= asdict(scores.importance)
    tensors |= {key: values[: len(x)].copy() for key, values in columns.items()}
    request = {
        "seed": TEST_SEED,
        "first_index": 0,
        "num_samples": recipe.num_samples,
        "num_importance_samples": recipe.num_importance_samples,
    }
    return save_safetensors(tensors, metadata={"request": json.dumps(request)})


def training_record(material: Material, history: History) -> dict[str, Any]:
    """Everything that a reader needs to judge the run or to repeat it, as plain JSON."""
    return {
        "recipe": asdict(material.recipe),
        "command": command_line(material.recipe, material.seed),
        "data": {
            "name": material.dataset.name,
            "digest": material.digest,
            "rows": len(material.dataset.x),
            "units": material.dataset.units,
        },
        "split": {"protocol": material.recipe.protocol, **material.parts.sizes},
        "seed": material.seed,
        "run": {"id": history.run, "publication": history.publication},
        "device": material.device.type,
        "threads": torch.get_num_threads(),
        "steps": history.steps,
        "skipped_steps": history.skipped_steps,
        "steps_per_second": history.steps_per_second,
        "point": _plain(history.point),
        "curve": [_plain(point) for point in history.curve],
        "code": {
            "elbod": elbod.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "wall_time": history.wall_time,
    }


def _named(kind: str, scores: dict[int, Floats]) -> dict[str, Floats]:
    return {f"{kind}_{samples}": found for samples, found in scores.items()}


def _plain(point: Point) -> dict[str, Any]:
    """JSON has no NaN: a bound that was not finite is null."""
    values = asdict(point).items()
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values}
