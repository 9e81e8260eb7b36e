"""What makes schemathesis' valid requests valid for the models that are served.

Whether rows fit depends on the model, and whether two fields go together on their values: the OpenAPI document cannot
say either. So each request that keeps to the document gets rows of its model's shape, and loses the fields that
contradict others. What is left must be accepted. Requests that break the document are sent as they are.

To JSON Schema `1.0` is an integer. The service takes integers in their plain form alone, so they are sent in it.
"""

import base64
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from safetensors.numpy import save

# The models of `publish_kinds`: shape of a row, number of latents.
MODELS = {"levels": ((8, 8), 5), "bits": ((3, 4), 3), "linear": ((6,), 2), "labels": ((8, 8), 3), "chain": ((8, 8), 64)}
MODELS["chain-labels"] = MODELS["chain"]
# Classes of the models `labels` and `chain-labels`.
_CLASSES = 3
# Levels of the model `chain`, and the paths a row that may be weighted: the server's 64 in passes.
_LEVELS, _MOST_PATHS = 4, 12
_END = 2**56
_INTEGERS = {"seed", "first_index", "num_samples", "num_importance_samples", "label", "version", "expected"}
# What the model `chain` takes, and no other.
_OF_LEVELS = ("num_steps", "num_levels", "level", "sampler", "trajectory_steps", "guidance")
_INTEGERS |= set(_OF_LEVELS) - {"sampler", "guidance"}
_VERBS = ("/sample", "/encode", "/elbo")

schemathesis.openapi.media_type(
    "application/x-safetensors",
    st.integers(1, 5).map(lambda rows: save({"x": np.full((rows, 8, 8), rows, np.uint8)}, {"request": "{}"})),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Fit a request that keeps to the document to the models."""
    levels = case.path.endswith("/levels")
    if levels and case.path_parameters.get("name") == "rows":
        # It cannot be loaded, as the answer would say; levels are those of a loaded model.
        case.path_parameters = dict(case.path_parameters, name="levels")
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "name" in case.path_parameters:
        name = _of(MODELS if levels else [*MODELS, "rows"], str(case.path_parameters))
        case.path_parameters = dict(case.path_parameters, name=name)
        if levels and case.query.get("num_steps") is not None:
            chain = MODELS[name] == MODELS["chain"]
            case.query = {"num_steps": min(int(Decimal(case.query["num_steps"])), _LEVELS)} if chain else {}
    if "version" in case.path_parameters:
        # Some are there.
        case.path_parameters = dict(case.path_parameters, version=1 + len(str(case.path_parameters)) % 3)
    if case.path in _VERBS and isinstance(case.body, dict):
        case.body = fitted(_plain(case.body), sampling=case.path == "/sample")
    if case.path == "/sample" and case.method == "GET":
        case.query = _fitted_link(_plain(case.query))
    if "alias" in case.path_parameters and isinstance(case.body, dict):
        body = _plain(case.body)
        case.body = dict(body, version=1 + body["version"] % 3) if "version" in body else body


def _plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with integers as they are written without a point."""
    whole = {name: request[name] for name in _INTEGERS & request.keys() if isinstance(request[name], float | str)}
    return dict(request) | {name: int(Decimal(value)) for name, value in whole.items()}


def fitted(body: dict[str, Any], *, sampling: bool) -> dict[str, Any]:
    """The request body with rows, latents and labels that its model takes."""
    model = _model(body)
    shape, latents = MODELS[model]
    if body.get("x") is not None and body.get("z") is not None:
        del body["z"]
    given = [name for name in ("x", "z") if body.get(name) is not None]
    if given and sampling:
        body.pop("num_samples", None)
    if "z" in given:
        body.pop("temperature", None)
    if body.get("target_standard_error") is not None:
        body.pop("num_samples", None)
    rows = 2 if body.get("first_index", 0) + 2 <= _END else 1
    for name in given:
        body[name] = _array(body[name], (rows, *(shape if name == "x" else (latents,))))
    return _within(body, rows if given else body.get("num_samples", 1))


def _fitted_link(query: dict[str, Any]) -> dict[str, Any]:
    if _model(query) == "linear":
        # Its rows are no pictures.
        query["format"] = "json"
    return _within(query, query.get("num_samples", 1))


def _model(request: dict[str, Any]) -> str:
    """The model that fits the request's fields, written into it."""
    if _wants_levels(request):
        _fit_levels(request)
        labelled = request.get("label") is not None or request.get("marginal") is not None
        request["model"] = "chain-labels" if labelled else "chain"
        return str(request["model"])
    for name in _OF_LEVELS:
        request.pop(name, None)
    if request.pop("marginal", None) == "labels" and request.get("label") is None:
        request["model"], request["marginal"] = "labels", "labels"
        request.pop("binarize", None)
        return "labels"
    label, model = request.pop("label", None), _of(("levels", "bits", "linear"), str(request))
    if request.get("binarize") is not None:
        model = "bits"
    elif label is not None:
        model, request["label"] = "labels", label % _CLASSES if isinstance(label, int) else 0
    request["model"] = model
    return model


def _wants_levels(request: Mapping[str, Any]) -> bool:
    included = {"trajectory", "bound_map", "kl_per_level"}.intersection(request.get("include") or ())
    return bool(included) or any(request.get(name) is not None for name in _OF_LEVELS)


def _fit_levels(request: dict[str, Any]) -> None:
    """Fields that the chains of four levels take together."""
    _fit_label(request)
    for name in ("temperature", "binarize", "target_standard_error"):
        request.pop(name, None)
    for name, top in (("num_steps", _LEVELS), ("num_levels", _LEVELS), ("num_importance_samples", _MOST_PATHS)):
        if request.get(name) is not None:
            request[name] = min(request[name], top)
    if request.get("level") is not None:
        # Both ends are on every grid.
        request["level"] = _LEVELS * (request["level"] % 2)
    if request.get("num_levels") is not None:
        for name in ("num_steps", "num_importance_samples", "include"):
            request.pop(name, None)
    if "trajectory" not in (request.get("include") or ()):
        request.pop("trajectory_steps", None)


def _fit_label(request: dict[str, Any]) -> None:
    """Guidance has a label, and a marginal none; one over labels is of whole paths and has no maps."""
    if request.get("guidance"):
        request.setdefault("label", 0)
    if request.get("label") is not None:
        request["label"] = request["label"] % _CLASSES if isinstance(request["label"], int) else 0
        request.pop("marginal", None)
    if request.get("guidance") is not None and request.get("label") is None:
        del request["guidance"]
    if request.get("marginal") == "labels":
        for name in ("num_levels", "include"):
            request.pop(name, None)


def _within(request: dict[str, Any], rows: int) -> dict[str, Any]:
    """The request, with indices of all rows below their end."""
    if "first_index" in request:
        request["first_index"] = min(request["first_index"], _END - rows)
    return request


def _array(generated: Any, shape: tuple[int, ...]) -> Any:
    """An array of zeros and ones, which all models take, in the form of the generated one."""
    values = np.indices(shape).sum(0) % 2
    if isinstance(generated, dict):
        values = values.astype(generated["dtype"])
        return dict(generated, shape=list(shape), data=base64.b64encode(values.tobytes()).decode())
    return values.tolist()


def _of(names: Any, text: str) -> str:
    """One of the names, as the text decides."""
    return sorted(names)[len(text) % len(names)]
