"""From a manifest to a model that may serve: read, verify, build, self-test and warm, compare with its reference."""

import logging
import re
import time
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from elbod import __version__
from elbod.engine.backends import EagerBackend, pin_thread
from elbod.engine.backends.base import Backend
from elbod.engine.description import Calibration, Levels, ModelDescription
from elbod.engine.jobs import Array
from elbod.engine.programs import row_dtype
from elbod.engine.selftest import SelfTest
from elbod.errors import DamagedStore, ModelFailure
from elbod.generators import checkpoint
from elbod.generators.base import Generator
from elbod.generators.chained import Chained
from elbod.generators.checkpoint import GIVEN_LABEL, MARGINAL, InvalidCheckpoint, blueprint_of
from elbod.generators.evaluation import row_terms, score_at_mode
from elbod.generators.terms import leaves
from elbod_store import Manifest, ModelStore

logger = logging.getLogger(__name__)

# Where an element takes more numbers than a byte has levels, a row's distribution alone fills the cache.
_MANY_PARAMETERS, _FEW_SIZES = 256, 2

# What safetensors and numpy raise of bytes that are no tensors, or of another dtype or shape.
_UNREADABLE = (SafetensorError, KeyError, TypeError, ValueError)

# Of a row in flight: seed, index, label and temperature.
_KEY_BYTES = 28

# Other machines round differently, but not more than this.
_REFERENCE_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Resident:
    """A loaded version. `sizes` are the tiles that its self-test proved equal, or one tile if it proved none.

    The row-wise parameters of q(z|x) have `row_shapes`; a row in flight takes `slot_bytes` of the engine's tables, and
    a draw `noise_dimensions` standard normals, and `walk_bytes` more if it takes passes. The slowest program takes
    `tile_seconds` on the largest tile.
    """

    manifest: Manifest
    description: ModelDescription
    generator: Generator
    sizes: tuple[int, ...]
    nbytes: int
    slot_bytes: int
    walk_bytes: int
    row_shapes: dict[str, tuple[int, ...]]
    noise_dimensions: int
    tile_seconds: float

    def __str__(self) -> str:
        return str(self.description)

    @property
    def levels(self) -> int:
        """Passes between p(z_T) and p(x|z_0)."""
        return 0 if self.description.levels is None else self.description.levels.count


def load(store: ModelStore, manifest: Manifest, backend: Backend) -> Resident:
    """The version, ready to serve. Raises elbod_store errors, ModelFailure or DamagedStore; changes nothing."""
    started = time.monotonic()
    pin_thread()
    weights = store.read(manifest.weights)
    try:
        generator = checkpoint.load(blueprint_of(manifest), weights).to(backend.device)
    except InvalidCheckpoint as error:
        raise _cannot_load(manifest, error) from error
    generator.prepare()
    with torch.inference_mode():
        label = torch.zeros(1, dtype=torch.int64, device=backend.device) if generator.conditional else None
        row = torch.zeros(1, *generator.event_shape, device=backend.device)
        posterior = generator.encode(row, label)
        kept = [*posterior.parameters.values(), *leaves(row_terms(generator, row, posterior))]
    x_bytes = generator.likelihood.event_dims * np.dtype(row_dtype(generator)).itemsize
    slot_bytes = x_bytes + sum(tensor.nbytes for tensor in kept) + 4 * generator.latent_dim + _KEY_BYTES
    sizes = backend.tiles if generator.likelihood.parameters <= _MANY_PARAMETERS else backend.tiles[:_FEW_SIZES]
    wide = backend.wide_tiles if sizes == backend.tiles else ()
    proved = SelfTest(backend, generator, posterior.noise_dimensions, sizes).run(wide)
    sizes = proved.sizes or sizes[-1:]
    if manifest.reference is not None:
        _check_reference(store.read(manifest.reference), generator, backend, sizes[-1], manifest)
    calibration = _calibration(store, manifest)
    description = ModelDescription(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        family=manifest.family,
        likelihood=generator.likelihood,
        latent_dim=generator.latent_dim,
        latent_levels=generator.latent_levels,
        labels=generator.blueprint.labels,
        has_null_label=generator.null_label is not None,
        binarization=manifest.binarization,
        kl_estimator=generator.kl_estimator,
        levels=_levels(generator),
        posterior_family=posterior.family,
        posterior_closed_form=posterior.closed_form,
        posterior_shared={name: value.cpu().numpy() for name, value in posterior.shared.items()},
        calibration=calibration[MARGINAL],
        given_label=calibration[GIVEN_LABEL],
        reproducible=bool(proved.sizes),
        fingerprint=fingerprint(backend.device, sizes),
    )
    resident = Resident(
        manifest=manifest,
        description=description,
        generator=generator,
        sizes=sizes + proved.wide,
        nbytes=generator.kept_bytes(),
        slot_bytes=slot_bytes,
        walk_bytes=4 * generator.latent_dim if generator.levels else 0,
        row_shapes={name: tuple(tensor.shape[1:]) for name, tensor in posterior.parameters.items()},
        noise_dimensions=posterior.noise_dimensions,
        tile_seconds=proved.seconds,
    )
    logger.info("loaded %s in %.2f s, tiles %s", resident, time.monotonic() - started, resident.sizes)
    if not proved.sizes:
        logger.warning("%s failed the self-test: bytes depend on what shares a batch (reproducible: false)", resident)
    return resident


def _levels(generator: Generator) -> Levels | None:
    if not isinstance(generator, Chained):
        return None
    log_snr, weights = (values.double().cpu().numpy() for values in (generator.log_snr, generator.level_weights))
    return Levels(log_snr, weights, float(generator.entropy))


def needed_bytes(manifest: Manifest) -> int:
    """Bytes that the version's load will keep, or use at once where that is more. Raises ModelFailure."""
    try:
        generator = checkpoint.outline(blueprint_of(manifest))
    except InvalidCheckpoint as error:
        raise _cannot_load(manifest, error) from error
    # What one tile decodes to, in float64.
    tile = EagerBackend.tiles[-1] * generator.likelihood.event_dims * generator.likelihood.parameters * 8
    return max(manifest.weights.size, generator.kept_bytes(), tile)


def _cannot_load(manifest: Manifest, error: InvalidCheckpoint) -> ModelFailure:
    return ModelFailure(f"{manifest.name}@{manifest.version} cannot be loaded: {error}")


def _calibration(store: ModelStore, manifest: Manifest) -> dict[str, dict[int, Calibration]]:
    if manifest.calibration is None:
        return {MARGINAL: {}, GIVEN_LABEL: {}}
    return parse_calibration(store.read(manifest.calibration), manifest)


def parse_calibration(raw: bytes, manifest: Manifest) -> dict[str, dict[int, Calibration]]:
    """A version's calibration blob, by kind of score and number of draws. Raises DamagedStore."""
    found: dict[str, dict[int, Calibration]] = {MARGINAL: {}, GIVEN_LABEL: {}}
    try:
        for name, scores in load_safetensors(raw).items():
            kind, _, count = name.rpartition("_")
            if kind not in found or not re.fullmatch("[1-9][0-9]{0,8}", count):
                raise ValueError(f"{name} must be {MARGINAL} or {GIVEN_LABEL}, then _ and a number of draws")
            ascending = scores.dtype == np.float64 and scores.ndim == 1 and not (np.diff(scores) < 0).any()
            if not ascending or not len(scores) or not np.isfinite(scores).all():
                raise ValueError(f"{name} must be ascending finite float64 scores of one row at least")
            found[kind][int(count)] = Calibration(int(count), scores)
    except _UNREADABLE as error:
        raise _unreadable("calibration scores", manifest, error) from error
    return found


def parse_reference(raw: bytes, manifest: Manifest) -> dict[str, Array]:
    """The tensors of a version's reference rows. Raises DamagedStore."""
    try:
        tensors = load_safetensors(raw)
        for name, values in tensors.items():
            if values.dtype.kind not in "iuf":
                raise ValueError(f"{name} is {values.dtype}, not numbers")
    except _UNREADABLE as error:
        raise _unreadable("reference rows", manifest, error) from error
    return tensors


def _unreadable(what: str, manifest: Manifest, error: Exception) -> DamagedStore:
    return DamagedStore(f"the {what} of {manifest.name}@{manifest.version} cannot be read: {error}")


def fingerprint(device: torch.device, sizes: tuple[int, ...]) -> str:
    """What equal bytes are relative to: versions, device and CPU capability, and the set of tiles.

    Without the wide ones of a CPU: they were proved to have the bytes of the others, and chosen by time.
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device).replace(" ", "-")
    else:
        hardware = torch.backends.cpu.get_cpu_capability()
    versions = f"elbod-{__version__}/torch-{torch.__version__}/numpy-{np.__version__}"
    return f"{versions}/{device.type}-{hardware}/tiles-{'.'.join(map(str, sizes))}"


def _check_reference(raw: bytes, generator: Generator, backend: Backend, size: int, manifest: Manifest) -> None:
    """Score the held-out reference rows again without noise."""
    tensors = parse_reference(raw, manifest)
    padded = np.zeros((size, *generator.event_shape), row_dtype(generator))
    label = np.zeros(size, np.int64)
    try:
        x, expected = tensors["x"], tensors["reconstruction_at_mode"]
        count = min(len(x), size)
        padded[:count] = x[:count]
        if "label" in tensors:
            label[:count] = tensors["label"][:count]
        if x.shape[1:] != generator.event_shape or expected.shape != (len(x),):
            raise ValueError(f"x is {x.shape} and reconstruction_at_mode {expected.shape}")
    except _UNREADABLE as error:
        raise _unreadable("reference rows", manifest, error) from error
    actual = _reconstruction_at_mode(generator, backend, padded, label)[:count]
    wrong = ~np.isclose(actual, expected[:count], rtol=_REFERENCE_TOLERANCE, atol=_REFERENCE_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ModelFailure(
            f"{manifest.name}@{manifest.version} does not reproduce its reference: row {row} scores {actual[row]:.6f}, "
            f"published as {expected[row]:.6f}"
        )


@torch.inference_mode()
def _reconstruction_at_mode(generator: Generator, backend: Backend, x: Array, label: Array) -> Array:
    rows = torch.from_numpy(x).to(backend.device)
    labels = torch.from_numpy(label).to(backend.device) if generator.conditional else None
    found: Array = score_at_mode(generator, rows, labels).cpu().numpy()
    return found
