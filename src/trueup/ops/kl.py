"""KL estimators and the adaptive coefficient. Direction is in the name: KL(policy‖reference), sampled from the policy, nats."""

from __future__ import annotations

import torch
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


def chi2_term(log_ratio: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """pi/pi_ref - 2 + pi_ref/pi of whole replies: [B] -> [B]; its mean over samples of pi is chi^2(pi‖pi_ref), without bias.

    It is never negative; the plain estimate pi/pi_ref - 1 has the same mean, since pi_ref/pi has mean 1, but may be.
    """
    return log_ratio.exp() - 2 + (-log_ratio).exp()


def sqrt_chi2_penalty(log_ratio: Float[Tensor, " B"], chi2: Float[Tensor, ""] | float, epsilon: float = 1e-8) -> Float[Tensor, " B"]:
    """(pi/pi_ref - 1) / sqrt(chi^2): as a penalty on replies sampled from pi, its policy gradient is that of sqrt(chi^2(pi‖pi_ref)).

    chi^2 = sum pi^2/pi_ref - 1 has the gradient E_pi[2 pi/pi_ref d log pi], its root that over 2 sqrt(chi^2); the 1 is a baseline.

    Args:
        log_ratio: [B] log pi/pi_ref of whole replies, nats.
        chi2: chi^2 of the whole batch.
        epsilon: added under the root, which has no derivative at 0.

    Source: Laidlaw et al. 2024, arXiv:2403.03185.
    """
    return (log_ratio.exp() - 1) / (torch.as_tensor(chi2) + epsilon).sqrt().to(log_ratio)
