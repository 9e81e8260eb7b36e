"""Checkpoints: the round trip is exact, and what does not describe a model is refused by naming the place."""

import io
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod.generators.checkpoint import InvalidCheckpoint

VAE = Blueprint(
    family="vae",
    spec={"latent_dim": 2, "hidden": [5]},
    likelihood="discretized_logistic",
    event_shape=(2, 3),
    levels=17,
)
PPCA = Blueprint(family="ppca", spec={"latent_dim": 2}, likelihood="gaussian", event_shape=(5,))

blueprints = pytest.mark.parametrize("blueprint", [VAE, PPCA], ids=["vae", "ppca"])


def _trained(blueprint: Blueprint) -> Generator:
    generator = checkpoint.build(blueprint)
    x = torch.randint(0, 17, (40, *blueprint.event_shape), generator=torch.Generator().manual_seed(0))
    generator.initialize(x.float())
    return generator


def _with_spec(blueprint: Blueprint, **spec: Any) -> Blueprint:
    return replace(blueprint, spec={**blueprint.spec, **spec})


def _safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]]) -> bytes:
    """The file format, written by hand: length of the header, header, data."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _edited(blueprint: Blueprint, edit: Callable[[dict[str, Tensor]], object]) -> bytes:
    """Weights of a trained generator after `edit` of its tensors."""
    tensors = {name: tensor.clone() for name, tensor in _trained(blueprint).state_dict().items()}
    edit(tensors)
    types = {torch.float32: "F32", torch.float64: "F64"}
    return _safetensors(
        {name: (types[t.dtype], list(t.shape), t.contiguous().numpy().tobytes()) for name, t in tensors.items()}
    )


@blueprints
def test_a_round_trip_keeps_every_byte(blueprint: Blueprint) -> None:
    """load(save(g)) has the tensors of g, bit by bit, and saves to the bytes that it came from."""
    generator = _trained(blueprint)
    weights = checkpoint.save(generator)
    loaded = checkpoint.load(blueprint, weights)
    assert checkpoint.save(loaded) == weights
    for name, tensor in generator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@blueprints
def test_a_loaded_generator_is_ready_to_serve(blueprint: Blueprint) -> None:
    """It is in `eval` mode without gradients, and computes what the saved one computes."""
    generator = _trained(blueprint).eval()
    loaded = checkpoint.load(blueprint, checkpoint.save(generator))
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    x = torch.ones(3, *blueprint.event_shape)
    with torch.no_grad():
        mine, theirs = loaded.encode(x), generator.encode(x)
        assert torch.equal(mine.parameters["mean"], theirs.parameters["mean"])
        z = mine.parameters["mean"]
        assert torch.equal(loaded.decode(z).log_prob(x), generator.decode(z).log_prob(x))


@blueprints
def test_the_same_weights_give_the_same_bytes(blueprint: Blueprint) -> None:
    """Whatever order the tensors were assigned in: the digest of a model is that of its numbers."""
    generator = _trained(blueprint)
    again = checkpoint.build(blueprint)
    tensors = generator.state_dict()
    again.load_state_dict({name: tensors[name] for name in reversed(tensors)})
    assert checkpoint.save(generator) == checkpoint.save(generator) == checkpoint.save(again)


@blueprints
@given(data=st.data())
def test_truncated_weights_are_refused(blueprint: Blueprint, data: st.DataObject) -> None:
    """No prefix of the file is a model."""
    weights = checkpoint.save(_trained(blueprint))
    cut = data.draw(st.one_of(st.integers(0, len(weights) - 1), st.integers(0, 16)))
    with pytest.raises(InvalidCheckpoint, match="weights are not a safetensors file"):
        checkpoint.load(blueprint, weights[:cut])


@given(st.binary(max_size=200))
def test_noise_is_not_a_model(noise: bytes) -> None:
    """Any bytes give InvalidCheckpoint and no other exception."""
    with pytest.raises(InvalidCheckpoint):
        checkpoint.load(PPCA, noise)


class _Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("torch_format", [True, False], ids=["torch.save", "pickle.dumps"])
def test_a_pickle_is_refused_and_never_run(torch_format: bool, tmp_path: Any) -> None:
    """The format of the weights is safetensors; a pickle is refused before a byte of it is executed."""
    target = tmp_path / "pwned"
    buffer = io.BytesIO()
    if torch_format:
        torch.save({"loadings": _Bomb(str(target))}, buffer)
    else:
        pickle.dump(_Bomb(str(target)), buffer)
    with pytest.raises(InvalidCheckpoint, match="not a safetensors file"):
        checkpoint.load(PPCA, buffer.getvalue())
    assert not target.exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("noise"), "tensors missing or unknown: noise"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensors missing or unknown: extra"),
        (lambda t: t.update(location=torch.zeros(6).double()), r"weights.location is torch.float64 \(6,\), .* \(5,\)"),
        (lambda t: t.update(location=torch.zeros(5)), r"weights.location is torch.float32 \(5,\), .* torch.float64"),
        (lambda t: t.update(loadings=t["loadings"].mT), r"weights.loadings is torch.float64 \(2, 5\), .* \(5, 2\)"),
        (lambda t: t["location"][3].fill_(torch.nan), "weights.location has a value that is not finite"),
        (lambda t: t["loadings"][0, 1].fill_(-torch.inf), "weights.loadings has a value that is not finite"),
    ],
    ids=["missing", "unknown", "shape", "dtype", "transposed", "nan", "infinity"],
)
def test_weights_that_do_not_fit_are_refused(edit: Callable[[dict[str, Tensor]], object], message: str) -> None:
    """The message names the tensor, what it is and what the spec asks for."""
    with pytest.raises(InvalidCheckpoint, match=message):
        checkpoint.load(PPCA, _edited(PPCA, edit))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E8M0", "F4", "I8", "BOOL", "U64", "C64", "X99"])
def test_weights_of_another_dtype_are_refused(dtype: str) -> None:
    """Every dtype that a safetensors file may name is either wrong for the spec or no dtype at all."""
    sizes = {"BF16": 2, "U64": 8, "C64": 8}
    weights = _safetensors(
        {
            "loadings": (dtype, [5, 2], b"\0" * (5 if dtype == "F4" else 10 * sizes.get(dtype, 1))),
            "location": ("F64", [5], b"\0" * 40),
            "noise": ("F64", [], b"\0" * 8),
        }
    )
    with pytest.raises(InvalidCheckpoint):
        checkpoint.load(PPCA, weights)


def test_weights_of_another_model_are_refused() -> None:
    """A checkpoint of one family does not load as another's, nor of one size as another's."""
    with pytest.raises(InvalidCheckpoint, match="weights do not match family 'vae'"):
        checkpoint.load(VAE, checkpoint.save(_trained(PPCA)))
    with pytest.raises(InvalidCheckpoint, match=r"weights\.loadings is"):
        checkpoint.load(_with_spec(PPCA, latent_dim=3), checkpoint.save(_trained(PPCA)))


@pytest.mark.parametrize(
    ("blueprint", "message"),
    [
        (replace(PPCA, family="gan"), "no family 'gan' is registered under elbod.generators: known are .*ppca.*vae"),
        (replace(PPCA, likelihood="poisson"), "unknown likelihood 'poisson': one of bernoulli"),
        (replace(PPCA, likelihood="bernoulli"), "ppca has a gaussian likelihood, not 'bernoulli'"),
        (_with_spec(PPCA, latent_dim=5), "ppca needs 1 <= latent_dim < 5"),
        (_with_spec(PPCA, latent_dim=0), "ppca needs 1 <= latent_dim < 5"),
        (_with_spec(PPCA, latent_dims=3, widht=2), "spec of family 'ppca' has unknown keys: latent_dims, widht"),
        (replace(PPCA, spec={}), "spec of family 'ppca' is invalid: spec.latent_dim"),
        (_with_spec(PPCA, latent_dim="2"), "spec of family 'ppca' is invalid: spec.latent_dim"),
        (_with_spec(PPCA, latent_dim=2.0), "spec.latent_dim"),
        (_with_spec(PPCA, latent_dim=True), "spec.latent_dim"),
        (_with_spec(PPCA, latent_dim=None), "spec.latent_dim"),
        (_with_spec(VAE, hidden=[5, "6"]), "spec of family 'vae' is invalid: spec.hidden.1"),
        (_with_spec(VAE, hidden=5), "spec.hidden"),
        (_with_spec(VAE, activation="sigmoid"), "spec.activation"),
        (_with_spec(VAE, hidden=[0]), "sizes must be positive"),
        (_with_spec(VAE, latent_dim=-1), "sizes must be positive"),
        (replace(VAE, levels=1), "discretized_logistic needs levels >= 2, got 1"),
        (replace(VAE, levels=None), "discretized_logistic needs levels >= 2, got None"),
        (_with_spec(VAE, hidden=object()), "."),
    ],
)
def test_a_blueprint_that_describes_no_model_is_refused(blueprint: Blueprint, message: str) -> None:
    """The message names the key and what is wrong with it; no value is converted silently."""
    with pytest.raises(InvalidCheckpoint, match=message):
        checkpoint.build(blueprint)


def test_a_spec_may_come_from_json_or_from_python() -> None:
    """A list is a tuple in JSON: both build the same network."""
    shapes = [
        [tensor.shape for tensor in checkpoint.build(_with_spec(VAE, hidden=hidden)).state_dict().values()]
        for hidden in ([7, 3], (7, 3))
    ]
    assert shapes[0] == shapes[1]


def test_a_canonical_spec_writes_every_default_out() -> None:
    """It builds the same model, and naming the defaults changes nothing in it."""
    canonical = checkpoint.canonical_spec(replace(VAE, spec={"latent_dim": 2}))
    assert canonical["hidden"] == [300, 300]
    assert canonical["activation"] == "silu"
    assert json.loads(json.dumps(canonical)) == canonical
    assert checkpoint.canonical_spec(replace(VAE, spec=canonical)) == canonical
    checkpoint.build(replace(VAE, spec=canonical))


def test_the_registry_holds_the_families_of_this_package() -> None:
    """A family's entry point has the family's own name."""
    assert {"ppca", "vae"} <= set(checkpoint.families())
    for name in ("ppca", "vae"):
        assert checkpoint.family(name).family == name


@pytest.mark.parametrize("event_shape", [(), (0,), (3, -1), (10**9, 10**9)])
def test_sizes_that_no_model_can_have_are_refused(event_shape: tuple[int, ...]) -> None:
    blueprint = Blueprint(
        family="vae", spec={"latent_dim": 2}, likelihood="bernoulli", event_shape=event_shape, levels=2
    )
    with pytest.raises(InvalidCheckpoint, match=r"event_shape|cannot be built"):
        checkpoint.build(blueprint)


@pytest.mark.parametrize("spec", [{"latent_dim": "3"}, {"latent_dim": 2, "colour": 1}, {"latent_dim": 0}, {}])
def test_a_canonical_spec_is_validated_like_any_other(spec: dict[str, object]) -> None:
    blueprint = Blueprint(family="vae", spec=spec, likelihood="bernoulli", event_shape=(4,), levels=2)
    with pytest.raises(InvalidCheckpoint, match="spec"):
        checkpoint.canonical_spec(blueprint)
