"""When to pause and refit: pure functions of numbers that the pipeline hands down."""

from __future__ import annotations

from trueup.realign.config import RealignConfig


def pause_steps(config: RealignConfig, steps: int) -> list[int]:
    """Policy steps (done) after which the policy is frozen and a refit considered; none at the very end, where it could teach nothing."""
    first = config.every if config.first is None else config.first
    pauses = list(range(first, steps, config.every))
    return pauses if config.min_kl_nats > 0 or config.max_refits is None else pauses[: config.max_refits]


def due(config: RealignConfig, refits: int, kl_nats: float, kl_at_last_refit_nats: float) -> bool:
    """Whether a pause refits: fewer refits than allowed, and KL grown enough since the last one."""
    if config.max_refits is not None and refits >= config.max_refits:
        return False
    # without a trigger every pause refits: a sampled KL may well be below 0, or below the last one's
    return config.min_kl_nats == 0 or kl_nats - kl_at_last_refit_nats >= config.min_kl_nats
