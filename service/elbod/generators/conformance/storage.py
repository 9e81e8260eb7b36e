"""What is saved is the whole model, and its size is known before it is loaded."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.base import Generator
from elbod.generators.checkpoint import InvalidCheckpoint
from elbod.generators.conformance.checked import Checked, Nonconforming, call
from elbod.generators.noise import Stream
from elbod.generators.terms import leaves


def check_saved(model: Checked) -> None:
    """Saved and loaded, a model gives the same bits."""
    generator = model.generator
    try:
        loaded = checkpoint.load(generator.blueprint, checkpoint.save(generator)).to(model.device)
    except InvalidCheckpoint as error:
        raise Nonconforming(f"what is saved cannot be loaded: {error}") from error
    again = Checked.of(loaded, model.x, model.label)
    for ours, theirs in zip(leaves(model.draw_terms(2)), leaves(again.draw_terms(2)), strict=True):
        if not torch.equal(ours, theirs):
            raise Nonconforming("a model that was saved and loaded gives other numbers: is a tensor no buffer?")


def check_outline(generator: Generator) -> None:
    """A service outlines a model before it allocates it, and finds what the saved tensors are."""
    try:
        # A constructor may draw its weights, and training continues afterwards.
        with torch.random.fork_rng(devices=[]):
            checkpoint.check_fit(generator.blueprint, generator.state_dict())
    except InvalidCheckpoint as error:
        raise Nonconforming(f"no service could load it: {error}") from error


def check_kept_bytes(model: Checked) -> None:
    """`kept_bytes` covers every tensor that a model holds once it has answered, and is known from its outline."""
    generator = copy.deepcopy(model.generator)
    Checked.of(generator, model.x, model.label).draw_terms(1)
    storages = {tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in _held(generator, set())}
    kept, held = generator.kept_bytes(), sum(storages.values())
    if kept < held:
        raise Nonconforming(f"kept_bytes says {kept} bytes, but a model that has answered holds {held}")
    with torch.random.fork_rng(devices=[]):
        outlined = checkpoint.outline(generator.blueprint).kept_bytes()
    if outlined != kept:
        raise Nonconforming(f"kept_bytes says {outlined} bytes before the model is loaded, and {kept} afterwards")


@torch.enable_grad()
def check_gradients(model: Checked) -> None:
    """What training maximises is finite, (n,), and every parameter has a finite gradient of it."""
    generator = copy.deepcopy(model.generator).train().requires_grad_(True)
    noise = model.noise(Stream.POSTERIOR, model.encode().noise_dimensions, draws=2)[:, 0].float()
    n, weighted = len(model), "importance_objective"
    given = model.noise(Stream.POSTERIOR, generator.objective_noise_dimensions)[:, 0].float()
    _check_gradient(
        model, "objective", call("objective", generator.objective, model.x, given, 1.0, model.label), generator
    )
    if generator.levels == 0:
        objective = call(weighted, generator.importance_objective, model.x, noise.unflatten(0, (n, 2)), model.label)
        _check_gradient(model, weighted, objective, generator)


def _check_gradient(model: Checked, what: str, objective: Tensor, generator: Generator) -> None:
    model.tensor(what, objective, (len(model),), None)
    parameters = dict(generator.named_parameters())
    # Families that are fitted in closed form have none.
    gradients = torch.autograd.grad(objective.sum(), list(parameters.values()), allow_unused=True) if parameters else ()
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            raise Nonconforming(f"{what} does not depend on the parameter {name}")
        if not gradient.isfinite().all():
            raise Nonconforming(f"the gradient of {what} by {name} is not finite")


def _held(value: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached from a value."""
    if id(value) in seen or isinstance(value, type):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _held(one, seen)
    elif isinstance(value, (list, tuple, set)):
        for one in value:
            yield from _held(one, seen)
    elif hasattr(value, "__dict__"):
        yield from _held(vars(value), seen)
