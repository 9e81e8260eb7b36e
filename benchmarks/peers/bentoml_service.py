"""BentoML: bentoml serve bentoml_service:Elbo --port PORT

Every worker batches the requests that it accepts. `max_batch_size` counts rows and refuses larger requests, so that it
is 32 of the largest requests here; the dispatcher chooses the size below it. It answers 503 to what it expects to take
longer than `max_latency_ms`: with 100 ms that was half of the requests here, with 60 s nothing was gained.
"""

import os

import bentoml
import model
import numpy as np


@bentoml.service(workers=int(os.environ["ELBO_WORKERS"]), traffic={"timeout": 60})
class Elbo:
    def __init__(self) -> None:
        self.model = model.load()

    @bentoml.api(batchable=True, max_batch_size=2048, max_latency_ms=1000)
    def elbo(self, x: np.ndarray) -> np.ndarray:
        return model.score(self.model, np.asarray(x, np.float32))
