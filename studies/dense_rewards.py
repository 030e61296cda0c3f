"""Which segments of a reply bear an error: dense reward models on span-level feedback, cross-validated.

Every reply is held out once (folds by question). For each category: the area under the ROC curve over held-out
segments, and accuracy against always saying the more frequent label. Two rules that read no word stand beside them: the place of the
segment in its reply, and its length. Their direction is chosen on the data they are judged on, which flatters them a little.

    python studies/dense_rewards.py --data dev_feedback.json.gz --trunk stories260K --objective segments --out runs/dense

Intervals resample replies.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from trueup.core.rng import Key, epoch_rows
from trueup.data.segments import Category
from trueup.data.spans import Marked, read_marked
from trueup.data.splits import folds
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.reward import TrunkReward, new_reward
from trueup.models.token_outputs import token_outputs
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_ends
from trueup.rewards.dense.segments import SegmentsConfig
from trueup.rewards.dense.tokens import TokensConfig
from trueup.rewards.fit_dense import DenseLearner, MarkedBatch
from trueup.stats.bootstrap import Array, cluster_weights, make_estimate
from trueup.store.atomic import write_text

FORM = ("Irrelevant", "Redundant", "Incoherent")
CATEGORIES = (
    Category(name="form", labels=FORM, unit="clause", min_words=5, weight=0.3),
    Category(name="facts", labels=("Wrong-Grounding", "Unverifiable"), unit="sentence", unknown_labels=FORM, weight=0.5),
    Category(name="missing", labels=("Missing-Answer",), unit="reply", weight=0.3),
)
OBJECTIVES: dict[str, DenseObjectiveConfig] = {"segments": SegmentsConfig(), "tokens": TokensConfig()}
LOOP = LoopConfig(learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=10, micro_rows=8)
EPOCHS, ROWS, FOLDS, DRAWS = 4, 16, 5, 1000


def fitted(rows: Sequence[Marked], objective: DenseObjectiveConfig, trunk: str, key: Key) -> DenseLearner:
    """A dense reward model of these rows."""
    model = new_reward(trunk, key / "head", outputs=len(CATEGORIES))
    assert isinstance(model, TrunkReward)
    model.cut_replies = True
    learner = DenseLearner(objective, model, CATEGORIES)

    def batch(step: int) -> MarkedBatch:
        picked = epoch_rows(key / "data", len(rows), ROWS, step)
        return MarkedBatch(row=torch.from_numpy(picked), marked=tuple(rows[int(i)] for i in picked))

    steps = -(-len(rows) * EPOCHS // ROWS)
    for _ in train(learner, batch, steps=steps, config=LOOP, key=key, accelerator=Accelerator(cpu=True)):
        pass
    return learner


@torch.no_grad()
def judged(learner: DenseLearner, rows: Sequence[Marked]) -> tuple[SegmentTargets, Array]:
    """Segments of the rows, and [B, S] what the model says of them."""
    e = learner.collect(MarkedBatch(row=torch.arange(len(rows)), marked=tuple(rows)), Key(0))
    parts = [at_ends(token_outputs(learner.model, p.sequences), p.segments) for p in (e.take(i) for i in torch.arange(len(rows)).split(16))]
    return e.segments, torch.cat(parts).double().numpy()


def area(score: Array, label: Array, weight: Array) -> float:
    """Weighted area under the ROC curve, ties as half; NaN where a label is absent."""
    order = np.argsort(score, kind="stable")
    score, positive, negative = score[order], (label * weight)[order], ((1 - label) * weight)[order]
    edges = np.flatnonzero(np.diff(score)) + 1
    up, down = np.add.reduceat(positive, [0, *edges]), np.add.reduceat(negative, [0, *edges])
    total = up.sum() * down.sum()
    return float((up * (down.cumsum() - down / 2)).sum() / total) if total > 0 else np.nan


def right(score: Array, label: Array, weight: Array) -> float:
    """Weighted share of segments whose log-odds are on the side of the label."""
    return float(((score > 0) == (label > 0.5)) @ weight / weight.sum())


def told(name: str, unit: str, reply: Array, statistic: Callable[[Array], float], replies: int, key: Key) -> dict[str, Any]:
    """A statistic of weights of segments, with its bootstrap over replies."""
    draws = np.array([statistic(w[reply]) for w in cluster_weights(replies, DRAWS, key)])
    found = make_estimate(name, statistic(np.ones(len(reply))), draws, replies, unit, method="cluster bootstrap")
    print(f"  {name}: {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
    return asdict(found)


def study(rows: Sequence[Marked], trunk: str, objective: DenseObjectiveConfig, key: Key) -> list[dict[str, Any]]:
    """Every category under one objective."""
    columns: list[Array] = []
    for f, held in enumerate(folds([m.prompt.id for m in rows], FOLDS, key / "folds")):
        inside = set(held.tolist())
        learner = fitted([m for i, m in enumerate(rows) if i not in inside], objective, trunk, key / objective.kind / f)
        segments, said = judged(learner, [rows[int(i)] for i in held])
        at, j = (x.numpy() for x in segments.present.nonzero(as_tuple=True))
        first, last, category, target = (getattr(segments, n).numpy()[at, j] for n in ("first", "last", "category", "target"))
        print(f"fold {f + 1} of {FOLDS}", flush=True)
        columns.append(np.stack([held[at], category, target, said[at, j], first, last - first + 1], 1).astype(float))
    reply, category, target, said, place, length = np.concatenate(columns).T
    found = []
    for c, one in enumerate(CATEGORIES):
        here = category == c
        label, who, shown = target[here], reply[here].astype(int), f"{one.name}/{objective.kind}"
        share = float(label.mean())
        most = np.full(here.sum(), 1.0 if share > 0.5 else -1.0)
        print(f"{shown}: {here.sum()} segments, {share:.3f} with an error", flush=True)
        scores = {"auc": said[here], "auc of the place": place[here], "auc of the length": length[here]}
        for n, (name, score) in enumerate(scores.items()):
            turned = score if n == 0 or area(score, label, np.ones(len(label))) >= 0.5 else -score
            found.append(told(f"{shown}/{name}", "share", who, lambda w, s=turned, y=label: area(s, y, w), len(rows), key / shown / name))
        gain = lambda w, s=said[here], y=label, m=most: right(s, y, w) - right(m, y, w)  # noqa: E731
        found.append(told(f"{shown}/accuracy", "share", who, lambda w, s=said[here], y=label: right(s, y, w), len(rows), key / shown / "a"))
        found.append(told(f"{shown}/accuracy over the base rate", "share", who, gain, len(rows), key / shown / "g"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="replies with marked spans")
    parser.add_argument("--trunk", required=True, help="folder or hub name of a causal model")
    parser.add_argument("--objective", choices=OBJECTIVES, default="segments")
    parser.add_argument("--passages", action="store_true", help="put the passages in front of the question")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    reading = read_marked(args.data, passages=args.passages)
    print(reading.statement())
    found = study(reading.rows, args.trunk, OBJECTIVES[args.objective], Key(args.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / f"{args.objective}.json", json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
