"""The benchmark's VAE as a user of plain PyTorch would write it: the same weights and arithmetic in every peer.

ELBO(x) = log p(x|z) - KL(q(z|x) || N(0, I)) with one z ~ q(z|x) a row, in nats, float32.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

X_DIM, HIDDEN, LATENT = 784, 500, 50

# The file of weights; peers start processes of their own, which inherit it.
WEIGHTS = "ELBO_WEIGHTS"


class VAE(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _mlp(X_DIM, 2 * LATENT)
        self.decoder = _mlp(LATENT, X_DIM)
        self.register_buffer("shift", torch.zeros(X_DIM))
        self.register_buffer("scale", torch.ones(X_DIM))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 784) bits -> (n,)."""
        mean, log_stddev = self.encoder((x - self.shift) / self.scale).chunk(2, dim=-1)
        z = mean + log_stddev.exp() * torch.randn_like(mean)
        log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1)
        kl = 0.5 * (mean**2 + (2 * log_stddev).exp() - 1 - 2 * log_stddev).sum(-1)
        return log_likelihood - kl


def load() -> VAE:
    """The model of this process, which computes on one thread: there is a process for every core."""
    torch.set_num_threads(1)
    model = VAE()
    model.load_state_dict(load_file(os.environ[WEIGHTS]))
    return model.eval().requires_grad_(False)


def score(model: VAE, x: np.ndarray) -> np.ndarray:
    """(n, 784) float32 -> (n,) float32."""
    with torch.inference_mode():
        return model(torch.from_numpy(x)).numpy()


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )
