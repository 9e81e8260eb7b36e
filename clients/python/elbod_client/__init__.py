"""Python client of elbod, the ELBO daemon: numpy in, numpy out.

from elbod_client import Client

with Client("http://127.0.0.1:8000", model="digits") as client:
    samples = client.sample(64, seed=7)
    posterior = client.encode(samples.x)
    scores = client.elbo(samples.x, num_samples=16, num_importance_samples=64)
"""

from elbod_client._async_client import AsyncClient
from elbod_client._client import Client
from elbod_client._errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    ElbodError,
    Forbidden,
    InvalidInput,
    InvalidResponse,
    NotAcceptable,
    NotFound,
    NotReady,
    QueueFull,
    ServerError,
    Unauthorized,
    UnsupportedMediaType,
)
from elbod_client._receipts import Receipt
from elbod_client._results import (
    AliasMove,
    Estimator,
    FingerprintWarning,
    LoadedVersion,
    ModelIdentity,
    Posterior,
    Process,
    PublishedModel,
    Samples,
    Scores,
    Summary,
)

__version__ = "0.1.0"

__all__ = [
    "AliasMove",
    "AsyncClient",
    "BadRequest",
    "BodyTooLarge",
    "BodyTooSlow",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "ElbodError",
    "Estimator",
    "FingerprintWarning",
    "Forbidden",
    "InvalidInput",
    "InvalidResponse",
    "LoadedVersion",
    "ModelIdentity",
    "NotAcceptable",
    "NotFound",
    "NotReady",
    "Posterior",
    "Process",
    "PublishedModel",
    "QueueFull",
    "Receipt",
    "Samples",
    "Scores",
    "ServerError",
    "Summary",
    "Unauthorized",
    "UnsupportedMediaType",
]
