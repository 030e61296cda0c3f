"""Rewards in the helpdesk when labels are flipped, when members differ by pretraining seed, and when annotators like length.

For every seed: four policies of different initial weights and data order, each fine-tuned on the same demonstrations (the *pretraining
seeds*); the first of them is the policy. Pairs of the world, labelled in three ways: by gold with 25 % flipped, by the usual biased
annotators, by one who likes length. On them: Bradley-Terry on each trunk, the objective that knows the share of flips, members for
WARM from one trunk, and length apart (ODIN). All are asked about one pool of replies of the policy to test prompts, so gold under best-of-n
is exact up to the pool (`trueup.stats.best_of_n`) and every comparison is paired.

    python studies/rewards.py --seeds 100:120 --jobs 2 --out runs/rewards

A seed is a JSON file and is not run again. Differences and their 95 % bootstrap intervals are over seeds. Beside each stands the difference
that would have been found with 80 % power (two-sided t-test at 5 %, from the deviation between seeds), and 10 % of the gain: of
Bradley-Terry's accuracy over chance, or of the gold that best-of-n by Bradley-Terry gains at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy import stats
from torch import Tensor

from trueup.core.record import Decoding
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Demonstration, Preference, Prompt, Reply, judged
from trueup.learn.learner import Learner
from trueup.learn.table import Examples
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.merge import average_states
from trueup.models.policy import Policy
from trueup.models.reward import TrunkReward, reward_from_policy
from trueup.models.tiny import tiny_llama, tiny_tokenizer
from trueup.ops.ensembles import aggregate
from trueup.optimizers.sft import SFT
from trueup.pipeline.sampling import replies_of, write
from trueup.rewards.fit import RewardLearner
from trueup.rewards.learned import measure_scale
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig
from trueup.rewards.objectives.flip_noise import FlipNoiseConfig
from trueup.rewards.objectives.odin import ODINConfig
from trueup.rewards.objectives.protocol import ObjectiveConfig
from trueup.sandbox.desk.annotators import Annotator
from trueup.sandbox.helpdesk import Helpdesk, HelpdeskConfig
from trueup.stats.best_of_n import best_of_n, kl_nats
from trueup.stats.bootstrap import Array, mean_estimate
from trueup.store.atomic import write_text

FLIPS = 0.25
LABELS: dict[str, dict[str, Any]] = {
    "flipped": {"annotators": (Annotator(name="careless", temperature=0.05, flip=FLIPS),)},
    "usual": {},
    "long": {"annotators": (Annotator(name="long", length=1.0, temperature=0.3),), "bias_strength": 1.0},
}
"""Who labels the pairs; texts are the same."""
TRUNKS, PAIRS, HELD = 4, 1500, 900
SFT_EPOCHS, SFT_RATE, SFT_BATCH = 2.5, 6e-3, 16
EPOCHS, RATE, BATCH = 2, 2e-3, 32
WARM_RATES = (1.0, 0.7, 1.4, 1.0)
"""Learning rates of WARM's members, as factors; the first one is the single model on the policy's trunk."""
PROMPTS, SAMPLES, REFERENCE, LONGEST = 60, 128, 256, 32
NS = (1, 2, 4, 8, 16, 32, 64, 128)
UWO = 0.5
"""Price of variance in UWO, as in Coste et al. 2023 for best-of-n."""
APART = {"apart": 0.1, "apart_paper": 1.0}
"""Both coefficients of ODIN: with the first, both heads together are as accurate on held-out labels as Bradley-Terry (seeds 0 and 1); the
second is the paper's."""


class Texts:
    """Prompts with replies that every reward model is asked about: reference samples, the pool, held-out and training pairs.

    Args:
        blocks: prompts and replies of each part.
        tokenizer_of: any model of the tokenizer that all of them share; equal texts are encoded, and later scored, once.
    """

    def __init__(self, blocks: Mapping[str, tuple[Sequence[Prompt], Sequence[Reply]]], tokenizer_of: Policy) -> None:
        self.prompts = [p for asked, _ in blocks.values() for p in asked]
        self.replies = [r for _, said in blocks.values() for r in said]
        ends = np.cumsum([0, *(len(asked) for asked, _ in blocks.values())])
        self.parts = {name: slice(int(a), int(b)) for name, a, b in zip(blocks, ends[:-1], ends[1:], strict=True)}
        asked = [(str(p.text), r) for p, r in zip(self.prompts, self.replies, strict=True)]
        rows = sorted(set(asked), key=lambda row: (len(row[0]) + len(row[1].text), row[0], row[1].text, row[1].finished))
        place = {row: i for i, row in enumerate(rows)}
        self.place = torch.tensor([place[row] for row in asked])
        reader = reward_from_policy(tokenizer_of, Key(0))
        self.batches = [
            reader.encode([p for p, _ in rows[i : i + 256]], [r for _, r in rows[i : i + 256]]) for i in range(0, len(rows), 256)
        ]


@dataclass(frozen=True)
class Bench:
    """What all reward models of a seed share."""

    key: Key
    trunks: list[Policy]
    texts: Texts
    pairs: dict[str, list[Preference]]
    """Training pairs by labelling."""


def learn(learner: Learner[Any, Any], rows: Sequence[Any], epochs: float, rate: float, batch: int, key: Key) -> None:
    """Fit to rows, cosine schedule."""
    loop = LoopConfig(learning_rate=rate, lr_scheduler_type="cosine")

    def batch_of(step: int) -> Examples[Any]:
        return Examples.of(rows, epoch_rows(key / "data", len(rows), batch, step))

    steps = int(np.ceil(len(rows) * epochs / batch))
    for _ in train(learner, batch_of, steps=steps, config=loop, key=key, accelerator=Accelerator(cpu=True)):
        pass


def trunk(world: Helpdesk, demonstrations: Sequence[Demonstration], number: int, key: Key) -> Policy:
    """A policy of its own initial weights and data order."""
    tokenizer = tiny_tokenizer(list(world.vocabulary()))
    policy = Policy(tiny_llama(len(tokenizer), key=key / "weights" / number), tokenizer)
    policy.model.requires_grad_(True)
    learn(SFT(policy), demonstrations, SFT_EPOCHS, SFT_RATE, SFT_BATCH, key / "sft" / number)
    return policy


def fitted(bench: Bench, labels: str, objective: ObjectiveConfig, number: int, order: int, factor: float = 1.0) -> TrunkReward:
    """A reward model on a trunk; ``order`` names its data order, and models of one trunk start with one head."""
    model = reward_from_policy(bench.trunks[number], bench.key / "head" / number, outputs=objective.outputs)
    rows = [judged(p) for p in bench.pairs[labels]]
    learn(RewardLearner(objective, model), rows, EPOCHS, RATE * factor, BATCH, bench.key / labels / number / order)
    return model


@torch.no_grad()
def scores(model: TrunkReward, texts: Texts, head: Callable[[Tensor], Tensor] = lambda outputs: outputs[:, 0]) -> Tensor:
    """[N] Scores of all texts, rescaled on the reference samples."""
    raw = torch.cat([head(model.outputs(batch)) for batch in texts.batches])[texts.place]
    scale = measure_scale(raw[texts.parts["reference"]])
    return scale.gain * raw + scale.shift


def merged(models: Sequence[TrunkReward]) -> TrunkReward:
    """The models' mean weights, in the first one's place."""
    models[0].module.load_state_dict(average_states([m.module.state_dict() for m in models]))
    return models[0]


def all_scores(bench: Bench) -> dict[str, dict[str, Tensor]]:
    """Scores of every reward, by labelling and name; a name with a number is one of several models of its kind."""
    plain, robust = BradleyTerryConfig(), FlipNoiseConfig(flip_probability=FLIPS)
    found: dict[str, dict[str, Tensor]] = {}
    for labels in ("flipped", "usual"):
        models = [fitted(bench, labels, plain, k, 0) for k in range(TRUNKS)]
        members = [scores(m, bench.texts) for m in models]
        found[labels] = {f"single/{k}": s for k, s in enumerate(members)} | pooled("pretrain", members)
        if labels == "flipped":
            warm = [models[0]] + [fitted(bench, labels, plain, 0, i, f) for i, f in enumerate(WARM_RATES) if i]
            members = [members[0]] + [scores(m, bench.texts) for m in warm[1:]]
            found[labels] |= {f"tuned/{k}": s for k, s in enumerate(members)} | pooled("finetune", members)
            first = {k: v.clone() for k, v in models[0].module.state_dict().items()}
            found[labels]["warm"] = scores(merged(warm), bench.texts)
            models[0].module.load_state_dict(first)
            found[labels]["warm_unshared"] = scores(merged(models), bench.texts)
            for k in range(2):
                found[labels][f"robust/{k}"] = scores(fitted(bench, labels, robust, k, 0), bench.texts)
    found["long"] = {f"single/{k}": scores(fitted(bench, "long", plain, k, 0), bench.texts) for k in range(2)}
    for name, coefficient in APART.items():
        apart = ODINConfig(length_coefficient=coefficient, orthogonal_coefficient=coefficient)
        for k in range(2):
            model = fitted(bench, "long", apart, k, 0)
            found["long"][f"{name}/{k}"] = scores(model, bench.texts)
            found["long"][f"{name}_both/{k}"] = scores(model, bench.texts, lambda outputs: outputs.sum(1))
    return found


def pooled(name: str, members: Sequence[Tensor]) -> dict[str, Tensor]:
    """An ensemble under three rules."""
    table = torch.stack(list(members)).float()
    return {f"{name}_{title}": aggregate(table, rule, UWO) for title, rule in (("mean", "mean"), ("wco", "min"), ("uwo", "uwo"))}  # type: ignore[arg-type]


def one(seed: int, out: Path) -> dict[str, Any]:
    """Every number of a seed; the scores themselves are kept in ``out``."""
    key = Key(seed) / "study-rewards"
    sizes = {"train_pairs": PAIRS, "validation_pairs": HELD, "test_prompts": 120}
    worlds = {name: HelpdeskConfig(**sizes, **settings).build(seed, Path()) for name, settings in LABELS.items()}
    world = worlds["usual"]
    demonstrations = list(world.demonstrations())
    trunks = [trunk(world, demonstrations, k, key) for k in range(TRUNKS)]
    pairs = {name: list(w.preferences("train")) for name, w in worlds.items()}
    held = {name: list(w.preferences("validation")) for name, w in worlds.items()}
    decoding, train_prompts = Decoding(max_tokens=LONGEST), list(world.prompts("train"))
    rows = [train_prompts[int(i) % len(train_prompts)] for i in (key / "reference").permutation(REFERENCE)]
    blocks = {
        "reference": replies_of(write(trunks[0], rows, decoding, key / "reference")),
        "pool": replies_of(write(trunks[0], list(world.prompts("test"))[:PROMPTS], decoding, key / "pool", samples=SAMPLES)),
        **{name: sides(rows) for name, rows in (("held", held["usual"]), ("train", pairs["flipped"]))},
    }
    bench = Bench(key, trunks, Texts(blocks, trunks[0]), pairs)
    parts, texts = bench.texts.parts, bench.texts
    gold = np.array([g.score for g in world.gold(texts.prompts, texts.replies)])
    words = np.array([len(r.text.split()) for r in texts.replies], dtype=float)
    found = {name: {k: v.double().numpy() for k, v in table.items()} for name, table in all_scores(bench).items()}
    kept = {f"{name}:{k}": v.astype(np.float32) for name, table in found.items() for k, v in table.items()}
    np.savez_compressed(out / f"seed-{seed:04d}.npz", gold=gold, words=words, **kept)
    for table in found.values():
        table["gold"] = gold
    return {
        "seed": seed,
        "labels_clean": {name: float(np.mean(clean(world, rows))) for name, rows in pairs.items()},
        "rewards": {
            name: {k: measured(v, gold, words, parts, agree(held["usual"], held[name]), name == "flipped") for k, v in table.items()}
            for name, table in found.items()
        },
    }


def sides(pairs: Sequence[Preference]) -> tuple[list[Prompt], list[Reply]]:
    """The chosen reply of every pair, then the rejected one of every pair."""
    return [p.prompt for p in pairs] * 2, [p.chosen for p in pairs] + [p.rejected for p in pairs]


def agree(first: Sequence[Preference], second: Sequence[Preference]) -> Array:
    """[n] 1 where two labellings of the same pairs chose the same reply, -1 elsewhere."""
    assert [p.id for p in first] == [p.id for p in second]
    return np.array([1.0 if a.chosen == b.chosen else -1.0 for a, b in zip(first, second, strict=True)])


def clean(world: Helpdesk, pairs: Sequence[Preference]) -> list[float]:
    """Whether gold prefers the chosen reply; pairs of equal gold are left out."""
    prompts, replies = sides(pairs)
    gold = np.array([g.score for g in world.gold(prompts, replies)])
    gap = gold[: len(pairs)] - gold[len(pairs) :]
    return [float(g > 0) for g in gap if g]


def measured(score: Array, gold: Array, words: Array, parts: Mapping[str, slice], told: Array, flipped: bool) -> dict[str, Any]:
    """Accuracies, what was learned by heart, gold under best-of-n, and correlations within prompts, of one reward."""
    gap, truth = (np.subtract(*v[parts["held"]].reshape(2, -1)) for v in (score, gold))
    learned, right = (np.subtract(*v[parts["train"]].reshape(2, -1)) for v in (score, gold))
    pool, value, length = (v[parts["pool"]].reshape(PROMPTS, SAMPLES) for v in (score, gold, words))
    curves = np.array([best_of_n(p, v, NS) for p, v in zip(pool, value, strict=True)])
    peaks = []
    for half in (0, 1):  # each half of the prompts chooses the peak that the other measures
        other = curves[1 - half :: 2].mean(0)
        peaks.append([other[int(curves[half::2].mean(0).argmax())], other[-1]])
    return {
        "clean_accuracy": hits(gap * np.sign(truth), truth != 0),
        "label_accuracy": hits(gap * told, np.ones(len(gap), bool)),
        "wrong_labels_followed": hits(learned, right < 0) if flipped else None,
        "gold": dict(zip(map(str, NS), curves.mean(0).tolist(), strict=True)),
        "gold_peak": float(np.mean(peaks, axis=0)[0]),
        "drop": float(np.mean([a - b for a, b in peaks])),
        "gold_correlation": within(pool, value),
        "length_correlation": within(pool, length),
    }


def hits(gap: Array, used: Array) -> float:
    """Share of positive gaps, ties half."""
    return float(((gap > 0) + 0.5 * (gap == 0))[used].mean())


def within(first: Array, second: Array) -> float:
    """Pearson correlation within prompts, over all replies."""
    a, b = (v - v.mean(1, keepdims=True) for v in (first, second))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@dataclass(frozen=True)
class Comparison:
    """One kind of reward against another under one labelling."""

    part: str
    labels: str
    first: str
    second: str
    metrics: tuple[str, ...]


GOLD = ("gold@4", "gold@16", "gold@64", "gold@128", "drop")
ACCURACY = ("clean_accuracy", "wrong_labels_followed", "gold@16", "gold@128")
COMPARISONS = (
    *(Comparison("a", "flipped", first, "single", ACCURACY) for first in ("robust",)),
    *(Comparison("a", "flipped", first, "tuned", ACCURACY) for first in ("warm", "finetune_mean")),
    *(Comparison("a", "flipped", "warm", other, ACCURACY) for other in ("finetune_mean", "warm_unshared")),
    *(
        Comparison("b", labels, f"pretrain_{rule}", "single", (*GOLD, "clean_accuracy"))
        for labels in ("flipped", "usual")
        for rule in ("wco", "uwo", "mean")
    ),
    *(Comparison("b", "flipped", f"pretrain_{rule}", f"finetune_{rule}", GOLD) for rule in ("wco", "uwo", "mean")),
    *(
        Comparison("c", "long", name, "single", ("clean_accuracy", "label_accuracy", "length_correlation", "gold_correlation", *GOLD))
        for name in APART
    ),
    *(Comparison("c", "long", f"{name}_both", "single", ("clean_accuracy", "label_accuracy")) for name in APART),
)


def reading(table: Mapping[str, Any], kind: str, metric: str, numbers: Sequence[str] | None = None) -> float:
    """A metric of a kind of reward in one seed; the mean over its models, or over those of the given numbers."""
    rows = [table[k] for k in models_of(table, kind) if numbers is None or k.split("/")[1] in numbers]
    name, _, n = metric.partition("@")
    return float(np.mean([row[name][n] if n else row[name] for row in rows]))


def models_of(table: Mapping[str, Any], kind: str) -> list[str]:
    """Names of the models of a kind."""
    return [k for k in table if k.split("/")[0] == kind]


def compare(found: Sequence[Mapping[str, Any]], asked: Comparison, metric: str) -> dict[str, Any]:
    """Paired difference over seeds, with the difference that would have been found and 10 % of the gain."""
    tables, seeds = [f["rewards"][asked.labels] for f in found], [f["seed"] for f in found]
    numbered = [k.split("/")[1] for k in models_of(tables[0], asked.first) if "/" in k] or None  # the same trunks on both sides
    sides = [
        [reading(t, asked.first, metric, numbered) for t in tables],
        [reading(t, asked.second, metric, numbered if any("/" in k for k in models_of(t, asked.second)) else None) for t in tables],
    ]
    gap, n = np.array(sides[0]) - np.array(sides[1]), len(seeds)
    name = f"{asked.first} - {asked.second}"
    estimate = mean_estimate(gap, seeds, name, metric.partition("@")[0], Key(0) / "study-rewards" / asked.labels / name / metric)
    gain = gain_of(tables, metric)
    return {
        **estimate.to_dict(),
        "first": float(np.mean(sides[0])),
        "second": float(np.mean(sides[1])),
        "between_seed_deviation": float(gap.std(ddof=1)),
        "detectable": detectable(gap, n),
        "tenth_of_gain": None if gain is None else 0.1 * gain,
        "seeds_needed": None if gain is None else next((k for k in range(3, 2000) if detectable(gap, k) <= 0.1 * gain), None),
    }


def gain_of(tables: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """What the plain single model gains: accuracy over chance, or gold of best-of-n at its peak over that of the policy."""
    if metric in ("clean_accuracy", "label_accuracy"):
        return float(np.mean([reading(t, "single", metric) for t in tables])) - 0.5
    if metric.startswith("gold@") or metric == "drop":
        return float(np.mean([reading(t, "single", "gold_peak") - reading(t, "single", "gold@1") for t in tables]))
    return None


def detectable(gap: Array, n: int) -> float:
    """Difference that a two-sided paired t-test at 5 % over ``n`` seeds finds with 80 % power, to the usual approximation."""
    return float((stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * gap.std(ddof=1) / np.sqrt(n))


def conclude(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Comparisons, levels and curves over seeds."""
    table: dict[str, Any] = {
        "seeds": [f["seed"] for f in found],
        "ns": NS,
        "kl_nats": kl_nats(NS).tolist(),
        "levels": {},
        "comparisons": [],
    }
    table["labels_clean"] = {name: float(np.mean([f["labels_clean"][name] for f in found])) for name in LABELS}
    for labels in LABELS:
        kinds = dict.fromkeys(k.split("/")[0] for k in found[0]["rewards"][labels])
        tables = [f["rewards"][labels] for f in found]
        table["levels"][labels] = {
            kind: {
                "gold": [float(np.mean([reading(t, kind, f"gold@{n}") for t in tables])) for n in NS],
                **{
                    metric: float(np.mean([reading(t, kind, metric) for t in tables]))
                    for metric in ("clean_accuracy", "label_accuracy", "gold_peak", "drop", "gold_correlation", "length_correlation")
                },
            }
            for kind in kinds
        }
    for asked in COMPARISONS:
        rows = {metric: compare(found, asked, metric) for metric in asked.metrics}
        table["comparisons"].append({"part": asked.part, "labels": asked.labels, "first": asked.first, "second": asked.second, **rows})
    return table


def draw(table: dict[str, Any], path: Path) -> None:
    """Gold under best-of-n against KL, mean over seeds, a panel a labelling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    for axis, (labels, kinds) in zip(figure.subplots(1, 3), table["levels"].items(), strict=True):
        for kind, row in kinds.items():
            if kind not in ("gold", "apart_both", "apart_paper_both", "tuned", "warm_unshared"):
                axis.plot(table["kl_nats"], row["gold"], marker=".", label=kind)
        axis.set(title=f"{labels} labels", xlabel="KL of best-of-n, nats", ylabel="gold")
        axis.legend(frameon=False, fontsize=7)
    figure.suptitle(f"mean over {len(table['seeds'])} seeds, n = {NS[0]} to {NS[-1]}")
    figure.savefig(path, dpi=120)


def show(table: dict[str, Any]) -> None:
    """Levels, then differences with intervals and power."""
    for labels, kinds in table["levels"].items():
        print(f"{labels} labels, {table['labels_clean'][labels]:.3f} of the training pairs in gold's order")
        for kind, row in kinds.items():
            curve = " ".join(f"{g:.3f}" for g in row["gold"])
            print(f"  {kind:14s} clean {row['clean_accuracy']:.3f} labels {row['label_accuracy']:.3f} gold {curve} drop {row['drop']:.3f}")
    for row in table["comparisons"]:
        print(f"({row['part']}) {row['labels']}: {row['first']} - {row['second']}")
        for metric, found in row.items():
            if isinstance(found, dict):
                power = (
                    ""
                    if found["tenth_of_gain"] is None
                    else f", a tenth of the gain {found['tenth_of_gain']:.4f}: {found['seeds_needed']} seeds"
                )
                limits = "" if found["low"] is None else f" [{found['low']:.4f}, {found['high']:.4f}]"
                print(f"    {metric:22s} {found['value']:+.4f}{limits} detectable {found['detectable']:.4f}{power}")


def run_seed(seed: int, out: Path) -> Path:
    """One seed in a process of its own, on one thread."""
    done = out / f"seed-{seed:04d}.json"
    if not done.exists():
        command = [sys.executable, __file__, "--one", str(seed), "--out", str(out)]
        with (out / f"seed-{seed:04d}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100:120", help="A:B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/rewards"))
    parser.add_argument("--one", type=int, help="this seed alone, in this process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        torch.set_num_threads(1)
        write_text(options.out / f"seed-{options.one:04d}.json", json.dumps(one(options.one, options.out)))
        return
    first, last = map(int, options.seeds.split(":"))
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda s: run_seed(s, options.out), range(first, last)))
    table = conclude([json.loads(p.read_text()) for p in done])
    write_text(options.out / "rewards.json", json.dumps(table, indent=1))
    draw(table, options.out / "rewards.png")
    show(table)


if __name__ == "__main__":
    main()
