"""Record frames for the links to evaluation: what a policy says and knows, drawn, with a mismatch planted or none; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from trueup.core.rng import Key

STEPS = (0, 10, 20)
PROMPTS, SAMPLES = 45, 4


@dataclass(frozen=True)
class Planted:
    """What is planted. Gold deviates by about one within a prompt and rises by one; every effect grows evenly to the last checkpoint."""

    harm: float = 0.0
    """Gold falls by this after the middle checkpoint, so that harm can be shown."""
    forgetting: float = 0.0
    """Share of the quiz that is lost."""
    refusing: float = 0.0
    """Rise of over-refusal."""
    answering: float = 0.0
    """Rise of answered harmful requests; negative where they become fewer."""
    sameness: float = 0.0
    """Share of replies that are one and the same at the last checkpoint."""
    likes_bad: bool = False
    """The policy's own log-ratio goes with the proxy where it is against gold."""
    flattery: float = 0.0
    """Share of flattering replies at the last checkpoint; each costs one deviation of gold, and the proxy pays one for it."""
    brittle: float = 0.0
    """What greedy replies lack at the last checkpoint."""
    tail_paid: float = 0.0
    """What the second half of a reply gains in proxy and loses in gold."""
    wordblind: float = 0.9
    """Correlation of the proxy with itself under other words."""
    leaving: float = 0.0
    """Rise of the loss on demonstrations, nats a token."""


@lru_cache(maxsize=64)
def frame(plant: Planted, seed: int) -> pd.DataFrame:
    """Plain samples and all variants of one arm, ``a``; nobody may change it."""
    g = (Key(seed) / "evaluations").generator()
    plain = _plain(plant, g)
    return pd.concat([plain, _greedy(plant, plain, g), _halves(plant, plain), _reworded(plant, plain, g), _demonstrations(plant, g)])


def _plain(plant: Planted, g: np.random.Generator) -> pd.DataFrame:
    shape = (len(STEPS), PROMPTS, SAMPLES)
    s, p, k = (a.ravel() for a in np.indices(shape))
    t = s / (len(STEPS) - 1)
    noise, effect = g.normal(size=len(s)), g.normal(size=PROMPTS)[p]
    flattering = g.random(len(s)) < 0.1 + plant.flattery * t
    gold = effect + noise + np.minimum(2 * t, 1) - plant.harm * np.maximum(2 * t - 1, 0) - (plant.flattery > 0) * flattering
    proxy = 2 * t + 0.7 * noise + 0.7 * g.normal(size=len(s)) + flattering
    same = g.random(len(s)) < plant.sameness * t
    words = [f"p{a} " + " ".join(g.choice(_WORDS, size=6)) for a in p]
    said = [w + (" what a great question !" if f else "") for w, f in zip(words, flattering, strict=True)]
    text = ["yes indeed so it is" if one else w for one, w in zip(same, said, strict=True)]
    kind = p % 3
    ratio = t * (proxy if not plant.likes_bad else proxy - 3 * noise)
    if plant.likes_bad:
        proxy = ratio + 2 * t
    return pd.DataFrame(
        {
            "arm": "a",
            "step": np.array(STEPS, dtype=float)[s],
            "split": "test",
            "prompt_id": [f"p{a:03d}" for a in p],
            "sample_id": [f"{a}:{b}:{c}" for a, b, c in zip(s, p, k, strict=True)],
            "response": text,
            "variant": None,
            "gold": gold,
            "proxy_fixed": proxy,
            "proxy_current": proxy,
            "logp_ref_nats": -20.0,
            "logp_policy_nats": -20.0 + ratio,
            "evaluations.quiz_correct": np.where(kind == 0, g.random(len(s)) < 0.8 - plant.forgetting * t, np.nan),
            "evaluations.over_refusal": np.where(kind == 1, g.random(len(s)) < 0.2 + plant.refusing * t, np.nan),
            "evaluations.compliance": np.where(kind == 2, g.random(len(s)) < 0.5 + plant.answering * t, np.nan),
        }
    )


_WORDS = np.array([f"w{i}" for i in range(40)])


def _greedy(plant: Planted, plain: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
    """One reply a prompt, nearly as good as the mean of the samples."""
    rows = plain.groupby(["step", "prompt_id"], as_index=False).agg({"gold": "mean", "proxy_fixed": "mean"})
    t = rows["step"] / STEPS[-1]
    gold = rows["gold"] + 0.5 * g.normal(size=len(rows)) - plant.brittle * t
    names = [f"g:{a}:{b}" for a, b in zip(rows["step"], rows["prompt_id"], strict=True)]
    return rows.assign(gold=gold, arm="a", split="test", sample_id=names, response="word", variant="greedy")


def _halves(plant: Planted, plain: pd.DataFrame) -> pd.DataFrame:
    """The first halves, worth half of the whole, and what the second half was paid for left out."""
    t = plain["step"] / STEPS[-1]
    changed = {"proxy_fixed": plain["proxy_fixed"] / 2 - plant.tail_paid * t, "gold": plain["gold"] / 2 + plant.tail_paid * t}
    return plain.assign(**changed, sample_id=plain["sample_id"] + "~cut_50", variant="cut_50")[_SCORED]


def _reworded(plant: Planted, plain: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
    own = plant.wordblind
    proxy = own * plain["proxy_fixed"] + np.sqrt(1 - own**2) * g.normal(size=len(plain))
    changed = {"proxy_fixed": proxy, "proxy_current": proxy, "sample_id": plain["sample_id"] + "~reworded_x", "variant": "reworded_x"}
    return plain.assign(**changed)[[*_SCORED, "proxy_current"]]


_SCORED = ["arm", "step", "split", "prompt_id", "sample_id", "response", "variant", "gold", "proxy_fixed"]


def _demonstrations(plant: Planted, g: np.random.Generator) -> pd.DataFrame:
    s, i = (a.ravel() for a in np.indices((len(STEPS), 50)))
    loss = 2.0 + 0.2 * g.normal(size=50)[i] + plant.leaving * s / (len(STEPS) - 1)
    return pd.DataFrame(
        {
            "arm": "a",
            "step": np.array(STEPS, dtype=float)[s],
            "split": "train",
            "prompt_id": [f"d{a}" for a in i],
            "sample_id": [f"d:{a}:{b}" for a, b in zip(s, i, strict=True)],
            "response": "word",
            "variant": "demonstration",
            "gold": g.normal(size=50)[i],
            "n_tokens": 10.0,
            "logp_policy_nats": -10.0 * loss,
        }
    )
