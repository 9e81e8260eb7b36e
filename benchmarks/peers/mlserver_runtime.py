"""MLServer: mlserver start FOLDER, with the settings that `servers.py` writes there

Requests are those of its Open Inference Protocol, which its batches need. `max_batch_size` counts requests.
Inference runs in the server's process: two `parallel_workers` were four times slower here, since every batch is pickled
to them and back (and they do not start with uvloop 0.22 and later). Waits of 1 to 10 ms made no difference.
"""

import model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Elbo(MLModel):
    async def load(self) -> bool:
        self.model = model.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        scores = model.score(self.model, x.astype("float32", copy=False))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("elbo", scores)])
