"""What the comparisons on preference pairs share: the sets of pairs, the runs over precisions and sets, the checks of equal work.

Three orders of two sets, all from a seed; pairs share their prompt:

- ``dialogue``: 16 pairs a batch; lengths as of Anthropic's hh-rlhf in words and marks: prompts lognormal with median 67 and sigma 1.07, at
  most 256 tokens; replies 29 and 0.92, at most 128.
- ``grouped``: such pairs in batches of like length, which is TRL's best (``train_sampling_strategy="group_by_length"``): 50 batches
  drawn, sorted by their longer row as its sampler does, and some of them taken at even distances.
- ``short``: 32 pairs a batch, prompts of 8-24 and replies of 12-48 tokens, uniform: little prompt to share.

Each is done at TRL's own default precision (bf16 autocast over float32 weights; ours likewise keeps float32 weights and multiplies in
bf16) and in float32, in a process of its own; within one, a TRL step and one of ours take turns on the same batch, so that a busy machine
slows both, and the ratio is TRL's time for all batches over ours (beside it the least, median and greatest of single turns, and the ratio
of processor time, which other programs disturb less). Gradient checkpointing, TRL's default, is off: it would only slow TRL down here.
Everything else is its default.

Before timing, both sides must read the same tokens, and equal weights must give equal losses on every batch: 1e-5 in float32, 1e-2 in bf16.
After it, weights may be apart by at most 1 % of the way they went: the optimizers did the same work (bf16: 30 %; either side is about 10 %
from its own float32).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from timing import Seconds, in_process
from tiny_llama import VOCABULARY

TOLERANCE = {"float32": 1e-5, "bf16": 1e-2}
APART = {"float32": 1e-2, "bf16": 0.3}
SORTED = 50
"""Batches that TRL's sampler sorts at a time."""
BATCH = {"dialogue": 16, "grouped": 16, "short": 32}
PRECISIONS = ("bf16", "float32")


class Pair(NamedTuple):
    """Words of a prompt and of two replies; the reply's end token is not counted."""

    prompt: str
    chosen: str
    rejected: str

    def tokens(self) -> tuple[int, int, int]:
        """Lengths; replies with their end token."""
        return len(self.prompt.split()), len(self.chosen.split()) + 1, len(self.rejected.split()) + 1


def options(doc: str | None) -> argparse.ArgumentParser:
    """The options of a comparison on pairs."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each side, set and precision")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads, alike for both sides")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--precision", choices=tuple(TOLERANCE), help=argparse.SUPPRESS)
    parser.add_argument("--pairs", choices=tuple(BATCH), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program where the options or the machine do not allow the comparison."""
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    if find_spec("trl") is None:
        parser.error("TRL is not installed: pip install 'trueup[peers]'")


def run_all(script: str, args: argparse.Namespace, after: Callable[[str, dict[str, dict[str, Any]]], None] | None = None) -> None:
    """Every precision and set in a process of its own, shown and written; the last line is the smallest ratio.

    Args:
        script: the comparison's file.
        args: of `options`.
        after: called when a precision is done, with its name and all results so far.
    """
    results: dict[str, dict[str, Any]] = {}
    for precision in PRECISIONS:
        for pairs in BATCH:
            found = in_process(script, {"precision": precision, "pairs": pairs, "steps": args.steps, "threads": args.threads})
            results[f"{precision} {pairs}"] = found
            show(f"{precision} {pairs}", found)
        if after is not None:
            after(precision, results)
    ratio = min(r["ratio"] for r in results.values())
    if args.json:
        args.json.write_text(json.dumps({"ratio": ratio, "threads": args.threads, **results}, indent=2) + "\n")
    print(f"ratio {ratio:.2f}")


def show(name: str, r: dict[str, Any]) -> None:
    low, middle, high = min(r["turns"]), median(r["turns"]), max(r["turns"])
    print(
        f"{name}: ratio {r['ratio']:.2f} (turns {low:.2f}, {middle:.2f}, {high:.2f}), by processor time {r['processor_ratio']:.2f}; "
        f"losses differ by {r['loss_difference']:.1e}, what was learned by {r['learned_apart']:.1e}; "
        f"matrix rate {r['matrix_rate_gflops']:.0f} GFLOP/s"
    )
    print(f"  trueup {r['ours_pairs_per_s']:5.1f} pairs/s, {r['ours_share']:.0%} of the matrix rate as asked, {r['ours_done']:.0%} done")
    print(
        f"  TRL    {r['peer_pairs_per_s']:5.1f} pairs/s, {r['peer_share']:.0%} as asked; {r['peer_padding']:.0%} of its tokens are padding",
        flush=True,
    )


def set_up(name: str, steps: int, threads: int) -> tuple[int, list[Pair]]:
    """Batch size and pairs of a set; quiet libraries."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    return BATCH[name], make_pairs(name, BATCH[name], steps)


def make_pairs(name: str, size: int, steps: int) -> list[Pair]:
    """The pairs of so many batches of this size, in order."""
    draw = random.Random(0)
    count = size * (SORTED if name == "grouped" else steps)

    def words(n: float) -> str:
        return " ".join(f"w{draw.randrange(VOCABULARY - 3)}" for _ in range(int(n)))

    if name == "short":
        return [Pair(*(words(draw.randint(a, b)) for a, b in ((8, 24), (12, 48), (12, 48)))) for _ in range(count)]

    def lognormal(median_: float, sigma: float, low: int, high: int) -> int:
        return min(max(round(median_ * draw.lognormvariate(0, sigma)), low), high)

    pairs = [Pair(words(lognormal(67, 1.07, 4, 256)), *(words(lognormal(29, 0.92, 2, 127)) for _ in range(2))) for _ in range(count)]
    if name != "grouped":
        return pairs
    pairs.sort(key=longest, reverse=True)
    starts = [int((i + 0.5) * SORTED / steps) * size for i in range(steps)]
    return [pair for start in starts for pair in pairs[start : start + size]]


def longest(pair: Pair) -> int:
    prompt, *replies = pair.tokens()
    return prompt + max(replies)


def batch_of(pairs: list[Pair]) -> Any:
    """Our batch of these pairs."""
    import numpy as np

    from trueup.data.rows import Preference, Prompt, Reply, judged
    from trueup.learn.table import Examples

    groups = [
        judged(Preference(id=str(i), prompt=Prompt(id=str(i), text=p.prompt), chosen=Reply(text=p.chosen), rejected=Reply(text=p.rejected)))
        for i, p in enumerate(pairs)
    ]
    return Examples.of(groups, np.arange(len(groups)))


def figures(
    pairs: list[Pair], size: int, mine: list[Seconds], theirs: list[Seconds], rate: float, asked: float, done: float
) -> dict[str, Any]:
    """What both comparisons report of their turns.

    Args:
        pairs: that were learned from, in order.
        size: of a batch.
        mine: seconds of our steps.
        theirs: seconds of TRL's.
        rate: the machine's matrix rate, FLOP/s.
        asked: FLOPs of all steps, every reply with a prompt of its own, no padding.
        done: FLOPs that our path computes.
    """
    ours_s, peer_s = sum(m[0] for m in mine), sum(t[0] for t in theirs)
    return {
        "ratio": peer_s / ours_s,
        "turns": [t[0] / m[0] for m, t in zip(mine, theirs, strict=True)],
        "processor_ratio": sum(t[1] for t in theirs) / sum(m[1] for m in mine),
        "ours_s": [m[0] for m in mine],
        "peer_s": [t[0] for t in theirs],
        "ours_pairs_per_s": len(pairs) / ours_s,
        "peer_pairs_per_s": len(pairs) / peer_s,
        "matrix_rate_gflops": rate / 1e9,
        "ours_share": asked / ours_s / rate,
        "ours_done": done / ours_s / rate,
        "peer_share": asked / peer_s / rate,
        "peer_padding": padding(pairs, size),
    }


def loss_difference(trainer: Any, learner: Any, pairs: list[Pair], size: int, precision: str) -> float:
    """Largest |our loss - TRL's| over all batches at equal weights; more than the tolerance ends the benchmark."""
    import torch

    from trueup.core.rng import Key

    worst = 0.0
    for start in range(0, len(pairs), size):
        rows = range(size + start, 2 * size + start)  # TRL's set begins with the batch that warms up
        inputs = trainer.data_collator([trainer.train_dataset[i] for i in rows])
        with torch.no_grad():
            experience = learner.collect(batch_of(pairs[start : start + size]), Key(0))
            mine = learner.loss(experience, learner.weigh(experience, learner.totals(experience))).value.item()
            with trainer.compute_loss_context_manager():
                theirs = trainer.compute_loss(trainer.model, inputs).item()
        if not abs(mine - theirs) <= TOLERANCE[precision] * max(1.0, abs(theirs)):
            sys.exit(f"equal weights give unequal losses in {precision}: ours {mine}, TRL {theirs}")
        worst = max(worst, abs(mine - theirs))
    for found in trainer._metrics.values():
        found.clear()
    return worst


def learned_apart(before: dict[str, Any], mine: Any, theirs: Any, precision: str) -> float:
    """Distance of the two sides' weights after the same steps, over the way TRL's went; more than the tolerance ends the benchmark."""
    other = dict(theirs.named_parameters())
    apart = sum((p - other[name]).pow(2).sum().item() for name, p in mine.named_parameters())
    moved = sum((other[name] - start).pow(2).sum().item() for name, start in before.items())
    found = float((apart / moved) ** 0.5)
    if not found <= APART[precision]:
        sys.exit(f"the same steps in {precision} lead {found:.2g} of the way apart")
    return found


def padding(pairs: list[Pair], size: int) -> float:
    """Share of the tokens of TRL's batches that are padding."""
    rows = [(p + a, p + b) for p, a, b in (pair.tokens() for pair in pairs)]
    padded = sum(2 * size * max(map(max, rows[i : i + size])) for i in range(0, len(rows), size))
    return 1 - sum(map(sum, rows)) / padded
