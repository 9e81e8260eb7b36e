"""LitServe: python litserve_api.py PORT WORKERS

`max_batch_size` counts requests. A request may hold several rows, so that batches are joined and cut here. One API
server a worker is its default. Tried and slower here: `batch_timeout` of 5 and 20 ms, `fast_queue`, one API server.
"""

import sys
from typing import Any

import litserve
import model
import numpy as np


class Elbo(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = model.load()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return np.asarray(request["x"], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, x: list[np.ndarray]) -> list[np.ndarray]:
        scores = model.score(self.model, np.concatenate(x))
        return np.split(scores, np.cumsum([len(rows) for rows in x])[:-1])

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output

    def encode_response(self, output: np.ndarray) -> dict[str, list[float]]:
        return {"elbo": output.tolist()}


if __name__ == "__main__":
    api = Elbo(max_batch_size=32, batch_timeout=0, api_path="/elbo")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
