"""Bayes' rule for a discretized logistic while training: what `belief` gives, with its gradient, in one pass of levels.

With t_k = (k - 1/2 - location)/s, -infinity at the bottom and +infinity at the top edge, and y the element's own noisy
value in units of x,

    log post(k) = log sigmoid(-t_k) + log sigmoid(t_{k+1}) + log(1 - exp(-1/s)) + correction_k - h (k - y)^2 + const

where the third term is that of levels between the two edge bins. By dlog post(k)/dlocation = (sigmoid(t_k) +
sigmoid(t_{k+1}))/s + const, and likewise for log s, the mean, the variance and log post(x) have gradients that are sums
over the same levels. They are kept, the levels are not: a batch of images has 100 MB of them for every operation.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from elbod.generators.belief import row_blocks

# In place of infinity, as an edge in units of s: sigmoid gives 0 or 1, and no product is NaN.
_FAR = 1e3


def logistic_posterior(
    location: Tensor, log_scale: Tensor, noisy: Tensor, precision: Tensor, correction: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """E_post[x] - y, Var_post[x] and log post(x) of every element, (n, D) each, in the dtype of `location`.

    location, log_scale, noisy y, precision h and levels x are (n, D), `correction` is (D, levels). All but the last two
    have gradients. The mean is relative to y since float32 would round the difference.
    """
    dtype = location.dtype
    found: tuple[Tensor, Tensor, Tensor] = _LogisticPosterior.apply(  # type: ignore[no-untyped-call]
        location, log_scale, noisy.to(dtype), precision.to(dtype), correction.to(dtype), x.long()
    )
    return found


class _LogisticPosterior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        location, _, _, _, correction, _ = inputs
        of_evidence = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        found = location.new_empty(3, *location.shape)
        slopes = location.new_empty(4 if of_evidence else 2, *found.shape)
        buffers: _Buffers | None = None
        for rows in row_blocks(len(location), correction.numel(), location.device):
            part = [each[rows] for each in (*inputs[:4], inputs[5])]
            if buffers is None or len(buffers.t) != len(part[0]):
                buffers = _Buffers.of(part[0].shape, correction.shape[-1], location)
            found[:, rows] = _weigh(buffers, part, correction)
            slopes[:, :, rows] = _differentiate(buffers, part, of_evidence)
        ctx.save_for_backward(slopes)
        mean, variance, log_prob = found
        return mean, variance, log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        found = [sum(g * slope for g, slope in zip(gradients, each, strict=True)) for each in slopes]
        return *found, *[None] * (6 - len(found))


@dataclass(frozen=True)
class _Buffers:
    """What one block is worked out in: of edges t, sigmoid(t), max(sigmoid(t), sigmoid(-t)); of levels k - y, post."""

    t: Tensor
    sigmoid: Tensor
    larger: Tensor
    offset: Tensor
    weight: Tensor
    spare: list[Tensor]

    @classmethod
    def of(cls, elements: torch.Size, levels: int, like: Tensor) -> Self:
        t, sigmoid, larger = (like.new_empty(*elements, levels + 1) for _ in range(3))
        offset, weight, *spare = (like.new_empty(*elements, levels) for _ in range(5))
        return cls(t, sigmoid, larger, offset, weight, spare)


def _weigh(to: _Buffers, part: list[Tensor], correction: Tensor) -> Tensor:
    """E[x] - y, Var[x] and log post(x) of a block, (3, ...); leaves `to.weight` = post and `to.offset` = x - E[x]."""
    location, log_scale, noisy, precision, x = (each.unsqueeze(-1) for each in part)
    t, larger, offset, weight = to.t, to.larger, to.offset, to.weight
    inverse_scale = torch.exp(-log_scale)
    k = torch.arange(t.shape[-1], dtype=t.dtype, device=t.device)
    torch.sub(k - 0.5, location, out=t).mul_(inverse_scale)
    # log sigmoid(t) = log larger + (t - |t|)/2, and t_{k+1} - t_k is the same of all levels between the edge bins.
    torch.abs(t, out=larger)
    torch.neg(t[..., 0], out=larger[..., 0])
    larger[..., -1] = t[..., -1]
    t[..., 0], t[..., -1] = -_FAR, _FAR
    torch.sub(k[:-1], noisy, out=offset)
    torch.addcmul(correction, torch.mul(offset, -precision, out=weight), offset, out=weight)
    weight.sub_(larger[..., :-1], alpha=0.5).sub_(larger[..., 1:], alpha=0.5)
    _ends(weight).sub_(torch.log(-torch.expm1(-inverse_scale)))
    top = weight.amax(-1, keepdim=True)
    log_prob = (weight.gather(-1, x) - top).squeeze(-1)
    # Weights that underflow are slow, and count for nothing.
    torch.softmax(weight.sub_(top).clamp_(min=math.log(torch.finfo(t.dtype).tiny) / 2), -1, out=weight)
    most = weight.amax(-1)
    torch.sub(1, torch.sigmoid(t, out=to.sigmoid), out=larger)
    torch.maximum(larger, to.sigmoid, out=larger)
    total = weight.mul_(larger[..., :-1]).mul_(larger[..., 1:]).sum(-1)
    log_prob += (larger.gather(-1, x) * larger.gather(-1, x + 1)).squeeze(-1).log() - (total / most).log()
    weight /= total.unsqueeze(-1)
    mean = torch.mul(weight, offset, out=to.spare[0]).sum(-1)
    offset -= mean.unsqueeze(-1)
    variance = torch.mul(weight, offset, out=to.spare[0]).mul_(offset).sum(-1)
    return torch.stack([mean, variance, log_prob])


def _differentiate(to: _Buffers, part: list[Tensor], of_evidence: bool) -> Tensor:
    """Derivatives of these three by location, log scale and, if asked for, y and h, (2 or 4, 3, ...)."""
    inverse_scale = torch.exp(-part[1])
    x = part[4].unsqueeze(-1)
    once, twice, product = to.spare
    torch.mul(torch.mul(to.weight, to.offset, out=once), to.offset, out=twice)
    variance = twice.sum(-1)

    def of(log_post: Tensor) -> Tensor:
        """By the derivative of log post(k), to which any constant may be added."""
        sums = [torch.mul(each, log_post, out=product).sum(-1) for each in (to.weight, once, twice)]
        return torch.stack([sums[1], sums[2] - variance * sums[0], log_post.gather(-1, x).squeeze(-1) - sums[0]])

    slope = to.larger[..., 1:]
    found = [inverse_scale * of(torch.add(to.sigmoid[..., :-1], to.sigmoid[..., 1:], out=slope))]
    scaled = to.sigmoid.mul_(to.t)
    torch.sub(scaled[..., 1:], to.t[..., 1:], out=slope).add_(scaled[..., :-1])
    _ends(slope).add_((inverse_scale / torch.expm1(inverse_scale)).unsqueeze(-1))
    found.append(of(slope))
    if of_evidence:
        noisy, precision = part[2].unsqueeze(-1), part[3].unsqueeze(-1)
        found.append(of(torch.mul(to.offset, 2 * precision, out=slope)))
        found[-1][0] -= 1
        k = torch.arange(slope.shape[-1], dtype=slope.dtype, device=slope.device)
        found.append(of(torch.sub(k, noisy, out=slope).square_().neg_()))
    return torch.stack(found)


def _ends(levels: Tensor) -> Tensor:
    """The bottom and the top level, (..., 2)."""
    return levels[..., :: levels.shape[-1] - 1]
