"""Ray Serve: python rayserve_app.py PORT WORKERS

One replica a core behind the default proxy. `max_batch_size` counts requests. Waits for a
batch of 0, 5 and 10 ms made no difference beyond noise.
"""

import sys
import threading

import model
import numpy as np
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=64)
class Elbo:
    def __init__(self) -> None:
        self.model = model.load()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def score(self, x: list[np.ndarray]) -> list[np.ndarray]:
        scores = model.score(self.model, np.concatenate(x))
        return np.split(scores, np.cumsum([len(rows) for rows in x])[:-1])

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        scores = await self.score(np.asarray((await request.json())["x"], np.float32))
        return {"elbo": scores.tolist()}


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Elbo.options(num_replicas=workers, ray_actor_options={"num_cpus": 1}).bind(), route_prefix="/elbo")
    threading.Event().wait()
