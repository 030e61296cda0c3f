"""Curves with something planted alarm; curves of an honest training do not, and no curve of the score alone is called over-optimised."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.curves_alone.questions import ask
from trueup.mismatch.curves_alone.table import CurvesAlone

SEEDS = range(50)
SHAPES = ((200, 10, 0.3), (60, 5, 0.5))
"""Logged steps, steps between evaluations, correlation of neighbouring points' jitter."""


def jitter(count: int, rho: float, draws: np.random.Generator) -> np.ndarray:
    found = draws.normal(size=count)
    for i in range(1, count):
        found[i] = rho * found[i - 1] + np.sqrt(1 - rho**2) * found[i]
    return found


def honest(seed: int, count: int, every: int, rho: float) -> pd.DataFrame:
    """The score saturates, replies grow by a sixth, KL grows with lognormal jitter, one evaluation rises and one stays."""
    draws, t = np.random.default_rng(seed), np.linspace(0, 1, count)
    at = np.arange(every - 1, count, every)
    rising, level = np.full(count, np.nan), np.full(count, np.nan)
    rising[at] = 0.4 + 0.2 * (1 - np.exp(-2 * t[at])) + 0.02 * jitter(len(at), rho, draws)
    level[at] = 0.5 + 0.02 * jitter(len(at), rho, draws)
    return pd.DataFrame(
        {
            "proxy": 3 * (1 - np.exp(-3 * t)) + 0.4 * jitter(count, rho, draws),
            "length_tokens": 60 + 10 * t + 4 * jitter(count, rho, draws),
            "kl_token_nats": 0.1 * t * np.exp(0.25 * jitter(count, rho, draws)),
            "proxy_std": 1 - 0.3 * t + 0.08 * jitter(count, rho, draws),
            "clipped_share": np.clip(0.08 + 0.03 * jitter(count, rho, draws), 0, 1),
            "evaluations.acc": rising,
            "evaluations.f1": level,
        },
        index=pd.Index(np.arange(1, count + 1), name="step"),
    )


def planted(seed: int, count: int, every: int, rho: float) -> pd.DataFrame:
    """The same with longer replies that score more, a spike, a spread that goes, cut replies, and an evaluation that falls after half."""
    found, draws, t = honest(seed, count, every, rho), np.random.default_rng(seed + 10**6), np.linspace(0, 1, count)
    words = jitter(count, rho, draws)
    found["length_tokens"] = 60 * (1 + 0.6 * t) + 4 * words
    found["proxy"] += 0.4 * words
    found.loc[found.index[draws.integers(count // 5, count)], "kl_token_nats"] *= 20
    found["proxy_std"] *= np.exp(-2.5 * t)
    found["clipped_share"] += 0.4 * t
    found["evaluations.acc"] -= 0.5 * np.maximum(0, t - 0.5)
    return found


@functools.cache
def alarms(kind: str, shape: tuple[int, int, float]) -> tuple[Counter[str], int]:
    """How many seeds alarm, by question; and how many at all."""
    make = {"honest": honest, "planted": planted}[kind]
    found: Counter[str] = Counter()
    some = 0
    for seed in SEEDS:
        alarmed = [d.name for d in ask(make(seed, *shape), "a", CurvesAlone(draws=200), Key(seed)) if d.verdict == "alarm"]
        found.update(alarmed)
        some += bool(alarmed)
    return found, some


@pytest.mark.parametrize("shape", SHAPES)
def test_an_honest_training_is_quiet(shape: tuple[int, int, float]) -> None:
    """Over all questions together: any alarm at all in at most a tenth of the seeds."""
    found, some = alarms("honest", shape)
    assert some <= len(SEEDS) // 10, found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("question", ["evaluation_falls", "length_growth", "kl_spikes", "spread", "clipped"])
def test_what_is_planted_is_found(question: str, shape: tuple[int, int, float]) -> None:
    assert alarms("planted", shape)[0][question] >= 0.9 * len(SEEDS)


@pytest.mark.parametrize("kind", ["honest", "planted"])
def test_reward_against_kl_never_alarms(kind: str) -> None:
    assert all(alarms(kind, shape)[0]["reward_kl"] == 0 for shape in SHAPES)
