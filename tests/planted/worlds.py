"""Record frames in which a mismatch is planted, or none is: gold and proxy are drawn, nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from trueup.core.rng import Key


@dataclass(frozen=True)
class Plant:
    """What is planted. Scores have a within-prompt standard deviation of about one."""

    prompts: int = 100
    samples: int = 4
    checkpoints: int = 10
    kl_end: float = 25.0
    """KL at the last checkpoint, nats; the square root grows linearly."""
    gold_gain: float = 1.0
    """Rise of gold to its peak."""
    gold_drop: float = 0.0
    """Fall of gold from the middle checkpoint (its peak) to the last."""
    proxy_gain: float = 2.0
    agreement: float = 0.7
    """Within-prompt correlation of proxy and gold on the offline pairs, and on the policy's at the start."""
    agreement_end: float = 0.7
    """The same at the last checkpoint."""
    spread_end: float = 1.0
    """Standard deviation of gold within a prompt at the last checkpoint (1 at the first): the policy narrows."""
    length_bias: float = 0.0
    """Added to the proxy per standard deviation of length."""
    length_growth: float = 0.0
    """Tokens by which the last checkpoint's replies are longer."""
    gold_likes_length: float = 0.0
    """Added to gold (and so to the proxy) per standard deviation of length."""
    overconfidence_end: float = 1.0
    """Factor on the proxy's within-prompt differences at the last checkpoint."""
    flips: float = 0.0
    """Share of evaluation 'task_correct' lost by the last checkpoint."""
    refit_at: int | None = None
    """Position of the checkpoint from which another reward model, another scale of the same score, is in force."""
    labelled: bool = False
    """Annotators compare the offline pairs and the policy's neighbouring samples; they see twice the gold gap as log-odds."""


def frame(plant: Plant, seed: int, arm: str = "static") -> pd.DataFrame:
    """Checkpoint rows of one arm and the offline pairs."""
    generator = (Key(seed) / "world" / arm).generator()
    policy = _policy(plant, generator, arm)
    return pd.concat([policy, _offline(plant, (Key(seed) / "offline").generator())], ignore_index=True)


def _policy(plant: Plant, g: np.random.Generator, arm: str) -> pd.DataFrame:
    shape = (plant.checkpoints, plant.prompts, plant.samples)
    t = np.linspace(0, 1, plant.checkpoints)[:, None, None]
    step, prompt, sample = (a.ravel() for a in np.indices(shape))
    effect = g.normal(0, 1, plant.prompts)[None, :, None]
    rise = plant.gold_gain * np.minimum(2 * t, 1) if plant.gold_drop else plant.gold_gain * t
    curve = rise - plant.gold_drop * np.maximum(2 * t - 1, 0)
    spread = 1 + (plant.spread_end - 1) * t
    length = g.normal(0, 1, shape)
    gold_noise = g.normal(0, 1, shape) * spread + plant.gold_likes_length * length
    agreement = plant.agreement + (plant.agreement_end - plant.agreement) * t
    proxy_noise = _partner(gold_noise, agreement, g)
    scale = 1 + (plant.overconfidence_end - 1) * t
    proxy = effect + plant.proxy_gain * t + scale * proxy_noise + plant.length_bias * length
    gold = effect + curve + gold_noise
    kl = (t * np.sqrt(plant.kl_end)) ** 2 * (1 + 0.1 * g.normal(0, 1, shape))
    right = g.random(shape) < 0.8 - plant.flips * t
    tokens = np.round(60 + 10 * length + plant.length_growth * t)
    names = np.array([f"p{i:04d}" for i in range(plant.prompts)])
    rows = pd.DataFrame(
        {
            "arm": arm,
            "step": step * 10,
            "split": "test",
            "prompt_id": names[prompt],
            "sample_id": [f"{arm}:{s}:{p}:{k}" for s, p, k in zip(step, prompt, sample, strict=True)],
            "response": "some words",
            "n_tokens": tokens.ravel(),
            "finished": True,
            "kl_policy_ref_exact_nats": kl.ravel(),
            "scores.rm-0": proxy.ravel() * 2.0 + 1.0,
            "proxy_fixed": proxy.ravel(),
            "proxy_current": np.where(step >= (plant.checkpoints if plant.refit_at is None else plant.refit_at), 1.5, 1.0) * proxy.ravel(),
            "gold": gold.ravel(),
            "evaluations.task_correct": right.ravel().astype(float),
            "evaluations.unheard_of": g.normal(0, 1, shape).ravel() - 3 * np.broadcast_to(t, shape).ravel(),
        }
    )
    return _labelled(rows, g) if plant.labelled else rows


def _partner(gold: np.ndarray, agreement: np.ndarray | float, g: np.random.Generator) -> np.ndarray:
    """A score of unit noise whose correlation with gold of unit spread is ``agreement``."""
    return agreement * gold + np.sqrt(1 - np.square(agreement)) * g.normal(0, 1, gold.shape)


def _offline(plant: Plant, g: np.random.Generator, pairs: int = 300) -> pd.DataFrame:
    shape = (pairs, 2)
    length = g.normal(0, 1, shape)
    gold = g.normal(0, 1, shape) + plant.gold_likes_length * length
    proxy = _partner(gold, plant.agreement, g) + plant.length_bias * length
    pair, side = (a.ravel() for a in np.indices(shape))
    rows = pd.DataFrame(
        {
            "arm": "offline",
            "step": np.nan,
            "split": "validation",
            "prompt_id": [f"o{p:04d}" for p in pair],
            "sample_id": [f"offline:{p}:{s}" for p, s in zip(pair, side, strict=True)],
            "response": "some words",
            "scores.rm-0": proxy.ravel() * 2.0 + 1.0,
            "proxy_fixed": proxy.ravel(),
            "gold": gold.ravel(),
        }
    )
    return _labelled(rows, g) if plant.labelled else rows


def _labelled(rows: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
    """Neighbouring rows compared; the label is written on both of them."""
    gold, names = rows["gold"].to_numpy(), rows["sample_id"].tolist()
    won = g.random(len(rows) // 2) < 1 / (1 + np.exp(-2 * (gold[0::2] - gold[1::2])))
    labels = []
    for i, w in enumerate(won):
        for other, preference in ((2 * i + 1, float(w)), (2 * i, 1 - float(w))):
            labels.append([{"annotator": "a", "other_sample_id": names[other], "preference": preference}])
    return rows.assign(labels=labels)


def alarm_rate(diagnose, settings, plant: Plant, seeds: int) -> float:
    """Share of seeds on which a diagnosis alarms."""
    verdicts = [diagnose(frame(plant, seed), "static", settings, Key(seed) / "d").verdict for seed in range(seeds)]
    assert "not enough data" not in verdicts
    return verdicts.count("alarm") / seeds
