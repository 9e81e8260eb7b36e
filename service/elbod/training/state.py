"""A training run's state as bytes: safetensors, with plain numbers as JSON in their metadata; nothing is unpickled."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from elbod.training.errors import CannotResume

_SCHEMA = 1


@dataclass(frozen=True)
class State:
    """Named tensors on the CPU and plain JSON, NaN among it; together all that decides how training goes on."""

    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]

    def pack(self) -> bytes:
        return save_safetensors(dict(self.tensors), metadata={"state": json.dumps({**self.plain, "schema": _SCHEMA})})

    @classmethod
    def unpack(cls, raw: bytes) -> "State":
        """Raises CannotResume for bytes of another version's state."""
        try:
            tensors = load_safetensors(raw)
            header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
            plain = json.loads(header["__metadata__"]["state"])
            schema = plain.pop("schema")
        except (SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CannotResume(f"the training state is malformed: {error}") from error
        if schema != _SCHEMA:
            raise CannotResume(
                f"the training state has schema {schema}, this elbod goes on from {_SCHEMA}: resume with the elbod "
                "that saved it, or train anew"
            )
        return cls(tensors, plain)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors `prefix/name` by their names."""
        start = f"{prefix}/"
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`prefix/name` of each, detached and on the CPU."""
    return {f"{prefix}/{name}": value.detach().cpu().contiguous() for name, value in tensors.items()}


def fill(into: Mapping[str, Tensor], source: Mapping[str, Tensor], what: str) -> None:
    """Copy each tensor into its namesake. Raises CannotResume unless names, shapes and types are the same."""
    if (wrong := sorted(into.keys() ^ source.keys())) or (
        wrong := [
            name for name, value in source.items() if (value.shape, value.dtype) != (into[name].shape, into[name].dtype)
        ]
    ):
        raise CannotResume(f"the saved {what} are not this model's, see {', '.join(wrong[:3])}: train anew")
    for name, value in source.items():
        into[name].copy_(value)
