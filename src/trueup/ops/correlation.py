"""Pearson correlation of a whole batch from sums that add over micro-batches and processes, and its gradient."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueup.ops.masking import keep


def paired_moments(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "6"]:
    """Count, sums of x, y, x^2, y^2 and x y over the valid elements, float64."""
    a, b = x[mask].double(), y[mask].double()
    count = torch.tensor(float(a.numel()), dtype=torch.float64, device=x.device)
    return torch.stack([count, a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()])


def correlation(moments: Float[Tensor, "6"]) -> float:
    """Pearson's correlation from `paired_moments`; 0 where either side is constant."""
    n, sx, sy, sxx, syy, sxy = moments.tolist()
    if n < 2:
        return 0.0
    vx, vy = sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2
    if min(vx, vy) <= 0:
        return 0.0
    return float((sxy / n - sx * sy / n**2) / (vx * vy) ** 0.5)


def correlation_gradient(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], moments: Float[Tensor, "6"]
) -> tuple[float, Float[Tensor, "*shape"]]:
    """The batch's correlation, and its derivative by each x: (y_i' - rho x_i') / (n sd(x)), primes standardised.

    Args:
        x: what is varied.
        y: what stays.
        mask: valid elements.
        moments: of the whole batch, of which x and y may be a part.

    Returns:
        the correlation, and the gradient, 0 where masked or where either side is constant.
    """
    n, sx, sy, sxx, syy, _ = moments.tolist()
    rho = correlation(moments)
    vx, vy = (sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2) if n else (0.0, 0.0)
    if n < 2 or min(vx, vy) <= 0:
        return 0.0, torch.zeros_like(x)
    a, b = (x - sx / n) / vx**0.5, (y - sy / n) / vy**0.5
    return rho, keep((b - rho * a) / (n * vx**0.5), mask).detach()
