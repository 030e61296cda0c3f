"""Runs in tables: prompts by replies of the reference, a reward model fitted to noisy labels, and the exact path of policies it leads to.

Every reply has a hidden quality and some styles. Gold is quality plus styles, each worth something up to a point and costing more and
more beyond; annotators like styles without end (biases linear in them), are noisy, and see quality through gold. The proxy is a ridge
logistic regression on annotators' comparisons of reference replies: it sees quality blurred (a small reward model blurs more) and only
some styles; replies with a rare mark are worse, and in half of the worlds the proxy pays for it. The policy of path point t has
probabilities proportional to exp(t x score), from the reference to the strength that the KL coefficient allows; so gold, KL and the best
checkpoint are known without error. Records hold a few sampled replies a prompt and checkpoint, as a run's would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from trueup.core.rng import Key

PROMPTS, REPLIES, CHECKPOINTS, SAMPLES, STYLES, ANNOTATORS, MEMBERS = 120, 300, 11, 4, 6, 3, 4
Array = NDArray[np.float64]
CHOICES: dict[str, tuple[Any, ...]] = {
    "noise": (0.25, 0.5, 1.0),
    "bias": (0.02, 0.05, 0.1),
    "pairs": (300, 1000, 3000),
    "blur": (0.7, 1.4, 2.8),
    "strength": (4.0, 8.0, 16.0),
    "path": ("tilt", "rank", "uneven"),
    "mark": (0.0, 1.5),
}
"""Annotators' temperature and biases, pairs, blur of quality (the smaller the reward model, the more), the end of the path (an inverse KL
coefficient), what optimises, price of the mark."""


@dataclass(frozen=True)
class Tabular:
    """One run."""

    drawn: dict[str, Any]
    gold: Array
    """[S] exact mean gold of each checkpoint."""
    records: pd.DataFrame
    felt: Array
    """[N, A] what each annotator feels about each recorded reply."""
    cumulative: Array
    """[S, P, R] Running sums of each checkpoint's probabilities."""
    whole: Array
    """[A, P, R] What each annotator feels about every reply."""

    def fresh(self, newer: int, older: int, count: int, key: Key) -> Array:
        """[count] 1 where a reply that is sampled anew from the newer checkpoint wins against one of the older, to a random prompt."""
        g = key.generator()
        prompt, who = g.integers(PROMPTS, size=count), g.integers(ANNOTATORS, size=count)
        u = g.random((2, count))
        sides = [
            [int(np.searchsorted(c[p], x * c[p, -1], side="right")) for p, x in zip(prompt, side, strict=True)]
            for c, side in ((self.cumulative[newer], u[0]), (self.cumulative[older], u[1]))
        ]
        gap = (self.whole[who, prompt, sides[0]] - self.whole[who, prompt, sides[1]]) / self.drawn["noise"]
        return np.asarray(g.random(count) < 0.97 * expit(gap) + 0.03 * expit(-gap), dtype=float)

    def ask(self, key: Key) -> Any:
        """Annotators, one at random a comparison."""
        place = {s: i for i, s in enumerate(self.records["sample_id"])}
        noise = self.drawn["noise"]

        def asked(first: str, second: str) -> float:
            g = (key / first / second).generator()
            who = int(g.integers(ANNOTATORS))
            gap = self.felt[place[first], who] - self.felt[place[second], who]
            return float(g.random() < 0.97 * expit(gap / noise) + 0.03 * expit(-gap / noise))

        return asked


def drawn(seed: int, **fixed: Any) -> dict[str, Any]:
    """What distinguishes the runs."""
    key = Key(seed) / "tabular" / "drawn"
    return {name: c[int((key / name).generator().integers(len(c)))] for name, c in CHOICES.items()} | fixed


def tabular_run(seed: int, *, honest: bool = False, samples: int = SAMPLES, **fixed: Any) -> Tabular:
    """A run of that seed; an honest one optimises what its annotators feel, and they feel gold."""
    d, key = drawn(seed, **fixed), Key(seed) / "tabular"
    g = (key / "replies").generator()
    shape = (PROMPTS, REPLIES)
    quality, style = g.normal(size=shape), g.normal(size=(*shape, STYLES))
    mark = g.random(shape) < 0.02
    worth, limit = g.uniform(0.1, 0.5, STYLES), g.uniform(0.3, 1.2, STYLES)
    cost = g.uniform(0.4, 1.0, STYLES)
    gold = quality * g.uniform(0.4, 0.8) + style @ worth - mark - (np.maximum(style - limit, 0) ** 2) @ cost
    likes = g.uniform(0, 2 * d["bias"], (ANNOTATORS, STYLES))
    felt = gold[None] + (0.0 if honest else 1.0) * np.einsum("prj,aj->apr", style, likes)
    members = _members(d, felt, quality, style, key / "proxy")
    score = gold if honest else members.mean(axis=0) + d["mark"] * mark
    chances = _path(d, score, key / "path")
    means = np.einsum("spr,pr->s", chances, gold) / PROMPTS
    kl = (chances * np.log(np.maximum(chances, 1e-300) * REPLIES)).sum(2)
    picks = _sampled(chances, samples, key / "samples")
    step, prompt, _ = (a.ravel() for a in np.indices(picks.shape))
    reply = picks.ravel()
    at = (prompt, reply)
    records = pd.DataFrame(
        {
            "arm": "run", "step": step * 20, "split": "test", "prompt_id": [f"p{i:03d}" for i in prompt],
            "sample_id": [f"s{i}" for i in range(len(reply))], "response": [f"reply {p} {r}" for p, r in zip(*at, strict=True)],
            "n_tokens": np.round(20 + 5 * style[..., 0][at]), "proxy_current": score[at], "proxy_fixed": score[at], "gold": gold[at],
            "disagreement": members.std(axis=0)[at],
            "kl_policy_ref_exact_nats": kl[step, prompt],
        }
    )  # fmt: skip
    about = np.stack([f[at] for f in felt], axis=1)
    return Tabular(drawn=d, gold=means, records=records, felt=about, cumulative=np.cumsum(chances, axis=2), whole=felt)


def _members(d: dict[str, Any], felt: Array, quality: Array, style: Array, key: Key) -> Array:
    """[M, P, R] scores, their mean of deviation 1: logistic regressions on the same pairs, each drawn again with replacement."""
    g = key.generator()
    seen = g.random(STYLES) < 0.8
    features = np.concatenate([(quality + d["blur"] * g.normal(size=quality.shape))[..., None], style[..., seen]], axis=2)
    prompt = g.integers(PROMPTS, size=d["pairs"])
    a, b = g.integers(REPLIES, size=(2, d["pairs"]))
    who = g.integers(ANNOTATORS, size=d["pairs"])
    won = g.random(d["pairs"]) < expit((felt[who, prompt, a] - felt[who, prompt, b]) / d["noise"])
    x = features[prompt, a] - features[prompt, b]
    drawn = g.integers(d["pairs"], size=(MEMBERS, d["pairs"]))
    scores = np.stack([features @ _ridge(x[rows], won[rows].astype(float)) for rows in drawn])
    mean = scores.mean(axis=0)
    return np.asarray((scores - mean.mean()) / mean.std())


def _ridge(x: Array, won: Array, penalty: float = 1.0) -> Array:
    w = np.zeros(x.shape[1])
    for _ in range(25):
        p = expit(x @ w)
        w = w + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty * np.eye(len(w)), x.T @ (won - p) - penalty * w)
    return w


def _path(d: dict[str, Any], score: Array, key: Key) -> Array:
    """[S, P, R] probabilities; ``rank`` tilts by the rank within a prompt, ``uneven`` moves every prompt at its own pace."""
    t = d["strength"] * (np.linspace(0, 1, CHECKPOINTS) ** 1.5)[:, None, None]
    if d["path"] == "rank":
        order = score.argsort(axis=1).argsort(axis=1)
        score = np.sqrt(12) * (order / (REPLIES - 1) - 0.5)
    pace = np.exp(0.7 * key.generator().normal(size=(PROMPTS, 1))) if d["path"] == "uneven" else 1.0
    raised = t * pace * score
    raised = np.exp(raised - raised.max(axis=2, keepdims=True))
    return raised / raised.sum(axis=2, keepdims=True)


def _sampled(chances: Array, samples: int, key: Key) -> NDArray[np.int64]:
    """[S, P, K] replies."""
    u = key.generator().random((CHECKPOINTS, PROMPTS, samples))
    total = np.cumsum(chances, axis=2)
    return np.stack(
        [[np.searchsorted(total[s, p], u[s, p] * total[s, p, -1], side="right") for p in range(PROMPTS)] for s in range(CHECKPOINTS)]
    )
