"""KL estimators and the adaptive coefficient. Direction is in the name: KL(policy‖reference), sampled from the policy, nats."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def kl_k1(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log pi/pi_ref: unbiased, may be negative (Schulman 2020, "Approximating KL divergence")."""
    return log_ratio


def kl_k2(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half the squared log-ratio: biased, never negative."""
    return 0.5 * log_ratio**2


def kl_k3(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """pi_ref/pi - 1 - log pi_ref/pi: unbiased and never negative."""
    return (-log_ratio).exp() - 1 + log_ratio


def adapted_beta(beta: float, kl_nats: float, target_nats: float, episodes: int, horizon: int) -> float:
    """The KL coefficient after one update: a clipped proportional step towards the target (Ziegler et al. 2019, section 2.2).

    Args:
        beta: current coefficient.
        kl_nats: mean sequence KL of this batch.
        target_nats: where it should be.
        episodes: replies in this batch.
        horizon: replies over which the coefficient may move by its whole size at most.
    """
    error = min(max(kl_nats / target_nats - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * episodes / horizon)
