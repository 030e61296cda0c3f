"""Pairs a second of reward-model training against TRL's `RewardTrainer`: same model, pairs and batches, in one process, turn by turn.

Work: a reward model on the Llama trunk of `rollout_vs_trl.py` (8.4 M parameters with its language head; 6 layers, width 256, 8 heads,
vocabulary 4,096); one step = forward pass of all chosen and rejected replies, Bradley-Terry loss, backward pass, AdamW step (ours also
encodes the texts; TRL has done so before). Pairs share their prompt. Three orders of two sets, all from a seed:

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

Shares of the matrix rate: ``asked`` counts every reply with a prompt of its own and all layers whole, without padding; ``done`` counts
what our path computes (each prompt once, the last layer only where it is read).

Then scoring, on the dialogue replies: scores a second, share of the matrix rate, and the time of five heads on one trunk over that of one.

    pip install 'trueup[peers]'
    python benchmarks/reward_vs_trl.py [--steps 6] [--threads N] [--json FILE]

The last line is ``ratio X.XX``, the smallest over precisions and sets: our pairs a second over TRL's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from timing import in_process, matrix_rate, now, since, taking_turns
from tiny_llama import LAYER, LAYERS, VOCABULARY, WIDTH, tiny_llama

CONTEXT = 512
LEARNING_RATE, MEMBERS = 1e-4, 5
TOLERANCE = {"float32": 1e-5, "bf16": 1e-2}
APART = {"float32": 1e-2, "bf16": 0.3}
SORTED = 50
"""Batches that TRL's sampler sorts at a time."""
BATCH = {"dialogue": 16, "grouped": 16, "short": 32}


class Pair(NamedTuple):
    """Words of a prompt and of two replies; the reply's end token is not counted."""

    prompt: str
    chosen: str
    rejected: str

    def tokens(self) -> tuple[int, int, int]:
        """Lengths; replies with their end token."""
        return len(self.prompt.split()), len(self.chosen.split()) + 1, len(self.rejected.split()) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each side, set and precision")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads, alike for both sides")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--precision", choices=tuple(TOLERANCE), help=argparse.SUPPRESS)
    parser.add_argument("--pairs", choices=tuple(BATCH), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    if args.precision:
        args.out.write_text(json.dumps(measure(args.precision, args.pairs, args.steps, args.threads)))
        return
    if find_spec("trl") is None:
        parser.error("TRL is not installed: pip install 'trueup[peers]'")
    results: dict[str, dict[str, Any]] = {}
    for precision in ("bf16", "float32"):
        for pairs in BATCH:
            found = in_process(__file__, {"precision": precision, "pairs": pairs, "steps": args.steps, "threads": args.threads})
            results[f"{precision} {pairs}"] = found
            show(f"{precision} {pairs}", found)
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
        f"  TRL    {r['peer_pairs_per_s']:5.1f} pairs/s, {r['peer_share']:.0%} as asked; {r['peer_padding']:.0%} of its tokens are padding"
    )
    if "scores_per_s" in r:
        print(
            f"  scoring {r['scores_per_s']:.0f} replies/s, {r['scoring_share']:.0%} of the matrix rate as asked, {r['scoring_done']:.0%} "
            f"done; {MEMBERS} heads on one trunk cost {r['heads_ratio']:.2f} of one",
            flush=True,
        )


def measure(precision: str, name: str, steps: int, threads: int) -> dict[str, Any]:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    size = BATCH[name]
    pairs = make_pairs(name, size, steps)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rate = matrix_rate(dtype)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        # the first turn warms up, on a batch that comes again
        trainer, turns = peer(Path(folder), pairs[:size] + pairs, size, precision)
        learner, loop = ours(Path(folder), pairs[:size] + pairs, size, precision)
        check_tokens(trainer, learner, pairs, size)
        difference = loss_difference(trainer, learner, pairs, size, precision)
        turns.other = loop
        before = {name: p.detach().clone() for name, p in learner.model.module.named_parameters()}
        trainer.train()
        apart = learned_apart(before, learner, trainer, precision)
    rate = max(rate, matrix_rate(dtype))
    mine, theirs = turns.ours[1:], turns.peer[1:]
    done, asked = flops_done(pairs), flops_asked(pairs)
    ours_s, peer_s = sum(m[0] for m in mine), sum(t[0] for t in theirs)
    single = [t[0] / m[0] for m, t in zip(mine, theirs, strict=True)]
    return {
        "ratio": peer_s / ours_s,
        "turns": single,
        "processor_ratio": sum(t[1] for t in theirs) / sum(m[1] for m in mine),
        "ours_s": [m[0] for m in mine],
        "peer_s": [t[0] for t in theirs],
        "ours_pairs_per_s": len(pairs) / ours_s,
        "peer_pairs_per_s": len(pairs) / peer_s,
        "loss_difference": difference,
        "learned_apart": apart,
        "matrix_rate_gflops": rate / 1e9,
        "ours_share": 3 * asked / ours_s / rate,
        "ours_done": 3 * done / ours_s / rate,
        "peer_share": 3 * asked / peer_s / rate,
        "peer_padding": padding(pairs, size),
        **(scoring(learner, pairs, precision, rate) if name == "dialogue" else {}),
    }


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


def make_model(folder: Path) -> None:
    """The reward model both sides load."""
    from trueup.core.rng import Key
    from trueup.models.reward import reward_from_policy

    reward_from_policy(tiny_llama(CONTEXT), Key(1)).save(folder / "reward")


def peer(folder: Path, pairs: list[Pair], size: int, precision: str) -> tuple[Any, Any]:
    """TRL's trainer, and the callback that times its steps and gives us every second turn."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    turns = taking_turns()
    config = RewardConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=size,
        learning_rate=LEARNING_RATE,
        num_train_epochs=1,
        train_sampling_strategy="sequential",  # so that both sides see the same batches
        bf16=precision == "bf16",
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        logging_steps=1000,
        save_strategy="no",
        disable_tqdm=True,
    )
    # TRL joins prompt and reply as they are
    data = Dataset.from_list([{"prompt": p.prompt + " ", "chosen": p.chosen, "rejected": p.rejected} for p in pairs])
    return RewardTrainer(model=str(folder / "reward"), args=config, train_dataset=data, callbacks=[turns]), turns


def ours(folder: Path, pairs: list[Pair], size: int, precision: str) -> tuple[Any, Iterator[Any]]:
    """Our learner, and the loop as an iterator of steps."""
    from accelerate import Accelerator

    from trueup.core.rng import Key
    from trueup.loop.config import LoopConfig
    from trueup.loop.train import train
    from trueup.models.reward import load_reward
    from trueup.rewards.fit import RewardLearner
    from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig

    learner = RewardLearner(BradleyTerryConfig(), load_reward(folder / "reward", precision=precision))
    steps = len(pairs) // size
    config = LoopConfig(learning_rate=LEARNING_RATE, lr_scheduler_type="linear")
    batches = [batch_of(pairs[i * size : (i + 1) * size]) for i in range(steps)]
    return learner, train(learner, batches.__getitem__, steps=steps, config=config, key=Key(0), accelerator=Accelerator(cpu=True))


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


def check_tokens(trainer: Any, learner: Any, pairs: list[Pair], size: int) -> None:
    """Both sides must read the same tokens."""
    from trueup.core.rng import Key

    features = learner.collect(batch_of(pairs[:size]), Key(0)).features.unstacked()
    mine = [row[kept].tolist() for row, kept in zip(features.tokens, features.attention().bool(), strict=True)]
    theirs = [ids for row in trainer.train_dataset.select(range(size)) for ids in (row["chosen_ids"], row["rejected_ids"])]
    if mine != theirs:
        sys.exit("the two sides read different tokens")


def loss_difference(trainer: Any, learner: Any, pairs: list[Pair], size: int, precision: str) -> float:
    """Largest |our loss - TRL's| over all batches at equal weights; more than the tolerance ends the benchmark."""
    import torch

    from trueup.core.rng import Key

    worst = 0.0
    for start in range(0, len(pairs), size):
        rows = range(size + start, 2 * size + start)  # TRL's set begins with the batch that warms up
        inputs = trainer.data_collator([trainer.train_dataset[i] for i in rows])
        experience = learner.collect(batch_of(pairs[start : start + size]), Key(0))
        with torch.no_grad():
            mine = learner.loss(experience, learner.weigh(experience, learner.totals(experience))).value.item()
            with trainer.compute_loss_context_manager():
                theirs = trainer.compute_loss(trainer.model, inputs).item()
        if not abs(mine - theirs) <= TOLERANCE[precision] * max(1.0, abs(theirs)):
            sys.exit(f"equal weights give unequal losses in {precision}: ours {mine}, TRL {theirs}")
        worst = max(worst, abs(mine - theirs))
    for found in trainer._metrics.values():
        found.clear()
    return worst


def learned_apart(before: dict[str, Any], learner: Any, trainer: Any, precision: str) -> float:
    """Distance of the two sides' weights after the same steps, over the way TRL's went; more than the tolerance ends the benchmark."""
    theirs = dict(trainer.model.named_parameters())
    apart = sum((p - theirs[name]).pow(2).sum().item() for name, p in learner.model.module.named_parameters())
    moved = sum((theirs[name] - start).pow(2).sum().item() for name, start in before.items())
    found = float((apart / moved) ** 0.5)
    if not found <= APART[precision]:
        sys.exit(f"the same steps in {precision} lead {found:.2g} of the way apart")
    return found


def scoring(learner: Any, pairs: list[Pair], precision: str, rate: float) -> dict[str, float]:
    """Replies a second of one reward model, and the time of five heads on its trunk over it; the two take turns."""
    import torch

    from trueup.data.rows import Reply
    from trueup.models.reward import TrunkReward
    from trueup.rewards.ensemble import HeadsReward
    from trueup.rewards.learned import LearnedReward

    one = learner.model
    model = type(one.model)(type(one.model.config)(**{**one.model.config.to_dict(), "num_labels": MEMBERS}))
    model.model.load_state_dict(one.model.model.state_dict())
    sides = (LearnedReward(one), HeadsReward(TrunkReward(model, one.tokenizer, precision=precision)))
    prompts = [p.prompt for p in pairs for _ in range(2)]
    replies = [Reply(text=text) for p in pairs for text in (p.chosen, p.rejected)]
    times: list[tuple[float, float]] = []
    for _ in range(6):
        turn = []
        for side in sides:
            began = now()
            side.score(prompts, replies)
            turn.append(since(began)[0])
        times.append((turn[0], turn[1]))
    single = median(t[0] for t in times[1:])
    if not torch.isfinite(sides[1].score(prompts[:2], replies[:2])).all():
        sys.exit("the heads give no finite score")
    return {
        "scores_per_s": len(replies) / single,
        "scoring_share": flops_asked(pairs) / single / rate,
        "scoring_done": flops_done(pairs) / single / rate,
        "heads_ratio": median(t[1] / t[0] for t in times[1:]),
    }


def flops_asked(pairs: list[Pair]) -> float:
    """Forward pass over every reply with a prompt of its own, all layers whole, no padding."""
    return LAYERS * LAYER * sum(2 * p + a + b for p, a, b in (pair.tokens() for pair in pairs))


def flops_done(pairs: list[Pair]) -> float:
    """Forward pass with each prompt once; of the last layer keys and values of all tokens, the rest where a score is read."""
    tokens = sum(sum(pair.tokens()) for pair in pairs)
    keyed = 2.0 * 2 * WIDTH * WIDTH
    return (LAYERS - 1) * LAYER * tokens + keyed * tokens + (LAYER - keyed) * 2 * len(pairs)


def padding(pairs: list[Pair], size: int) -> float:
    """Share of the tokens of TRL's batches that are padding."""
    rows = [(p + a, p + b) for p, a, b in (pair.tokens() for pair in pairs)]
    padded = sum(2 * size * max(map(max, rows[i : i + size])) for i in range(0, len(rows), size))
    return 1 - sum(map(sum, rows)) / padded


if __name__ == "__main__":
    main()
