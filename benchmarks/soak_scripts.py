"""What the callers of the soak ask: requests decided by their number alone, by every door, and what must come back."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
from safetensors.numpy import load as load_tensors

from elbod_client import Client
from elbod_client._receipts import sums
from elbod_client._results import Result
from tests.support import (
    BITS,
    CONVOLUTIONAL,
    FLOW_POSTERIOR,
    LABELS,
    LADDER,
    LEVELS,
    LINEAR,
    MIXTURE,
    VAMP,
)

SAFETENSORS = "application/x-safetensors"
MODELS = {
    "levels": LEVELS,
    "bits": BITS,
    "linear": LINEAR,
    "vamp": VAMP,
    "flow_posterior": FLOW_POSTERIOR,
    "mixture": MIXTURE,
    "convolutional": CONVOLUTIONAL,
    "ladder": LADDER,
    "labels": LABELS,
}
DOORS = ("client", "client", "client", "json", "base64", "safetensors", "link")
CHUNK_ROWS = 40


@dataclass(frozen=True)
class Script:
    """One request; `fields` has no model, since any version may be asked."""

    number: int
    door: str
    model: str
    verb: str
    fields: Mapping[str, Any]
    x: np.ndarray | None

    @classmethod
    def of(cls, number: int) -> "Script":
        rng = random.Random(number)
        door, model, verb = (
            rng.choice(DOORS),
            rng.choice(list(MODELS)),
            rng.choice(["sample", "encode", "elbo", "elbo"]),
        )
        verb = "sample" if door == "link" else verb
        # One label for all rows is no tensor.
        door = "json" if model == "labels" and door == "safetensors" else door
        rows = rng.choice([1, 1, 1, 2, 5, 31, 32, 33, 100])
        fields: dict[str, Any] = {"seed": rng.randrange(2**53), "first_index": rng.randrange(2**40)}
        if verb == "sample":
            fields |= {"num_samples": rows, "temperature": rng.choice([0.0, 0.8, 1.0])}
        elif verb == "encode":
            fields |= {"num_samples": rng.choice([0, 1, 4])}
        else:
            fields |= {"num_samples": rng.choice([1, 3, 16])}
            fields |= rng.choice([{}, {"num_importance_samples": 40}, {"include": ["reconstruction_map"]}])
        if model == "labels":
            fields |= {"label": rng.randrange(3)}
        return cls(number, door, model, verb, fields, None if verb == "sample" else _rows(number, model, rows))

    @property
    def title(self) -> str:
        return f"{self.verb}, {'link' if self.door == 'link' else self.door}"

    def kwargs(self, reference: str) -> dict[str, Any]:
        """Arguments of the Python client's method."""
        return {**self.fields, "model": reference} | ({} if self.x is None else {"x": self.x})

    def request(self, base: str, reference: str) -> httpx.Request:
        """For the doors that are not the Python client's."""
        fields = {**self.fields, "model": reference}
        if self.door == "link":
            return httpx.Request("GET", f"{base}/sample?{urlencode(fields)}")
        url, headers = f"{base}/{self.verb}", {"Content-Type": "application/json"}
        if self.door == "safetensors":
            headers |= {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS}
            return httpx.Request("POST", url, content=_tensors(fields, self.x), headers=headers)
        if self.door == "base64":
            fields |= {"encoding": "base64"}
        if self.x is not None:
            fields |= {"x": self.x.tolist()}
        return httpx.Request("POST", url, content=json.dumps(fields), headers=headers)


def read(door: str, body: bytes) -> tuple[str, str]:
    """The model digest of an answer, and a digest of everything in it but the version's number."""
    if door == "safetensors":
        length = int.from_bytes(body[:8], "little")
        document = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["response"])
        document["tensors"] = sums(load_tensors(body))
    else:
        document = json.loads(body)
    model = document.pop("model")
    return model["digest"], hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def read_result(result: Result) -> tuple[str, str]:
    """The same of what the Python client returned."""
    receipt = result.receipt()
    return receipt.digest, hashlib.sha256(json.dumps(dict(receipt.outputs), sort_keys=True).encode()).hexdigest()


def expect(base: str, scripts: list[Script], versions: tuple[int, ...]) -> dict[tuple[str, int], str]:
    """Digests of the answers by model digest and script, from a server that does nothing else."""
    found = {}
    with Client(base, chunk_rows=CHUNK_ROWS, timeout=120) as client, httpx.Client(timeout=120) as http:
        for script in scripts:
            for version in versions:
                reference = f"{script.model}@{version}"
                if script.door == "client":
                    digest, answer = read_result(getattr(client, script.verb)(**script.kwargs(reference)))
                else:
                    response = http.send(script.request(base, reference))
                    assert response.status_code == 200, response.text[:300]
                    digest, answer = read(script.door, response.content)
                found[digest, script.number] = answer
    return found


def _rows(number: int, model: str, rows: int) -> np.ndarray:
    rng, blueprint = np.random.default_rng(number), MODELS[model]
    if blueprint.levels is None:
        return rng.standard_normal((rows, *blueprint.event_shape)).astype(np.float32)
    return rng.integers(0, blueprint.levels, (rows, *blueprint.event_shape), dtype=np.uint8)


def _tensors(fields: Mapping[str, Any], x: np.ndarray | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"request": json.dumps(dict(fields))}}
    if x is not None:
        code = {"float32": "F32", "uint8": "U8"}[x.dtype.name]
        header["x"] = {"dtype": code, "shape": list(x.shape), "data_offsets": [0, x.nbytes]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + (b"" if x is None else x.tobytes())
