"""MLServer: mlserver start FOLDER, with the settings that `servers.py` writes there

Requests are those of its Open Inference Protocol, which its batches need. `max_batch_size` counts requests.
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
