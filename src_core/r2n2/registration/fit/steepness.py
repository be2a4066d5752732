"""A penalty on single steep Gaussians: its value, and its part in the normal equations, in closed form.

A Gaussian's steepness is |u|, u = A v; one of |u| > exp(1/2) folds alone. Neither diffusion, in 2D pi |v|^2 whatever the width, nor
total variation holds a narrow Gaussian back that follows a change of brightness and no motion; |u|^2 = |v|^2 / sigma^2 does.
The penalty is the sum over Gaussians of max(0, |u| - cap)^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.transform.matrices import upper

__all__ = ["steepness_equations", "steepness_penalty"]


def steepness_penalty(model: WhitenedGaussians, cap: float) -> Tensor:
    """Sum of the squared excess of every Gaussian's steepness over ``cap``, (B,)."""
    return _excess(model, cap)[1].square().sum(1)


def steepness_equations(model: WhitenedGaussians, cap: float) -> tuple[Tensor, Tensor] | None:
    """Matrix (B, N, N) and right side (B, N) of the penalty, N = K q; None where no Gaussian exceeds the cap."""
    whitened, excess = _excess(model, cap)
    if not bool((excess > 0).any()):
        return None
    batch, count, ndim = whitened.shape
    direction = torch.nn.functional.normalize(whitened, dim=-1)
    # A change of amplitude dv and of shape A <- exp(T) A changes u by A dv + T u; a move of the centre does not.
    amplitude = (direction.unsqueeze(-2) @ model.factors).squeeze(-2)
    shape = torch.stack([(1 if a == b else 2) * direction[..., a] * whitened[..., b] for a, b in upper(ndim)], -1)
    slope = torch.cat((amplitude, torch.zeros_like(amplitude), shape), -1) * (excess > 0).unsqueeze(-1)
    blocks = slope.unsqueeze(-1) * slope.unsqueeze(-2)
    matrix = torch.zeros(batch, count, model.freedom, count, model.freedom, dtype=slope.dtype, device=slope.device)
    each = torch.arange(count, device=slope.device)
    matrix[:, each, :, each] = blocks.movedim(1, 0)
    return matrix.flatten(3, 4).flatten(1, 2), (slope * excess.unsqueeze(-1)).flatten(1)


def _excess(model: WhitenedGaussians, cap: float) -> tuple[Tensor, Tensor]:
    """U (B, K, ndim), and by how much its length exceeds the cap (B, K)."""
    whitened = (model.factors @ model.amplitudes.unsqueeze(-1)).squeeze(-1)
    return whitened, (whitened.norm(dim=-1) - cap).clamp_min(0)
