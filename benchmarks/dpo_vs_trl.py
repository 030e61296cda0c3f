"""Pairs a second of DPO training against TRL's `DPOTrainer`: same models, pairs and batches, in one process, turn by turn.

Work: policy and reference are the Llama of `tiny_llama.py`, the reference with other weights, so that losses are not all ln 2; one step =
log-probabilities of all chosen and rejected replies under the reference and under the policy, sigmoid loss, backward pass, AdamW step
(ours also encodes the texts; TRL has done so before). Pairs share their prompt. The sets are those of `reward_vs_trl.py`: ``dialogue``,
``grouped`` and ``short``.

Each is done at TRL's own default precision (bf16 autocast over float32 weights; ours likewise keeps float32 weights and multiplies in
bf16) and in float32, in a process of its own; within one, a TRL step and one of ours take turns on the same batch, so that a busy machine
slows both, and the ratio is TRL's time for all batches over ours (beside it the least, median and greatest of single turns, and the ratio
of processor time, which other programs disturb less). Gradient checkpointing, TRL's default, is off: it would only slow TRL down here.
Everything else is its default.

Before timing, both sides must read the same tokens, and equal weights must give equal losses on every batch: 1e-5 in float32, 1e-2 in
bf16. After it, weights may be apart by at most 1 % of the way they went (bf16: 30 %).

Memory: each side alone in a process of its own takes the steps of ``dialogue``; the peak of resident memory over what stood there
before the first one.

    pip install 'trueup[peers]'
    python benchmarks/dpo_vs_trl.py [--steps 6] [--threads N] [--json FILE]

The last line is ``ratio X.XX``, the smallest over precisions and sets: our pairs a second over TRL's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from reward_vs_trl import APART, BATCH, TOLERANCE, Pair, batch_of, make_pairs, padding
from timing import in_process, matrix_rate, taking_turns
from tiny_llama import HEAD, LAYER, LAYERS, tiny_llama

CONTEXT, BETA, LEARNING_RATE = 512, 0.1, 1e-5
SIDES = ("ours", "peer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each side, set and precision")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads, alike for both sides")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--precision", choices=tuple(TOLERANCE), help=argparse.SUPPRESS)
    parser.add_argument("--pairs", choices=tuple(BATCH), help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    if args.memory:
        args.out.write_text(json.dumps(memory(args.memory, args.precision, args.steps, args.threads)))
        return
    if args.precision:
        args.out.write_text(json.dumps(measure(args.precision, args.pairs, args.steps, args.threads)))
        return
    if find_spec("trl") is None:
        parser.error("TRL is not installed: pip install 'trueup[peers]'")
    options = {"steps": args.steps, "threads": args.threads}
    results: dict[str, dict[str, Any]] = {}
    for precision in ("bf16", "float32"):
        for pairs in BATCH:
            results[f"{precision} {pairs}"] = found = in_process(__file__, {"precision": precision, "pairs": pairs, **options})
            show(f"{precision} {pairs}", found)
        peaks = {side: in_process(__file__, {"memory": side, "precision": precision, **options})["peak_mb"] for side in SIDES}
        results[f"{precision} dialogue"]["peak_mb"] = peaks
        print(f"{precision} peak memory over what stood before: trueup {peaks['ours']:.0f} MB, TRL {peaks['peer']:.0f} MB", flush=True)
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


def measure(precision: str, name: str, steps: int, threads: int) -> dict[str, Any]:
    import torch

    size, pairs = set_up(name, steps, threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rate = matrix_rate(dtype)
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        # the first turn warms up, on a batch that comes again
        trainer, turns = peer(Path(folder), pairs[:size] + pairs, size, precision)
        learner, loop = ours(Path(folder), pairs[:size] + pairs, size, precision)
        check_tokens(trainer, learner, pairs, size)
        difference = loss_difference(trainer, learner, pairs, size, precision)
        turns.other = loop
        before = {name: p.detach().clone() for name, p in learner.parts.policy.model.named_parameters()}
        trainer.train()
        apart = learned_apart(before, learner.parts.policy.model, trainer.model, precision)
    rate = max(rate, matrix_rate(dtype))
    mine, theirs = turns.ours[1:], turns.peer[1:]
    ours_s, peer_s = sum(m[0] for m in mine), sum(t[0] for t in theirs)
    return {
        "ratio": peer_s / ours_s,
        "turns": [t[0] / m[0] for m, t in zip(mine, theirs, strict=True)],
        "processor_ratio": sum(t[1] for t in theirs) / sum(m[1] for m in mine),
        "ours_s": [m[0] for m in mine],
        "peer_s": [t[0] for t in theirs],
        "ours_pairs_per_s": len(pairs) / ours_s,
        "peer_pairs_per_s": len(pairs) / peer_s,
        "loss_difference": difference,
        "learned_apart": apart,
        "matrix_rate_gflops": rate / 1e9,
        "ours_share": flops(pairs, shared=False) / ours_s / rate,
        "ours_done": flops(pairs, shared=True) / ours_s / rate,
        "peer_share": flops(pairs, shared=False) / peer_s / rate,
        "peer_padding": padding(pairs, size),
    }


def memory(side: str, precision: str, steps: int, threads: int) -> dict[str, float]:
    """Peak of resident memory of one side's steps over what stood there before the first, MB."""
    size, pairs = set_up("dialogue", steps, threads)
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        if side == "ours":
            _, loop = ours(Path(folder), pairs, size, precision)
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before = resident("VmRSS")
            for _ in loop:
                pass
        else:
            trainer, _ = peer(Path(folder), pairs, size, precision, alone=True)
            Path("/proc/self/clear_refs").write_text("5")
            before = resident("VmRSS")
            trainer.train()
    return {"peak_mb": resident("VmHWM") - before}


def resident(name: str) -> float:
    """A line of the process's status, MB: ``VmRSS`` is what it holds, ``VmHWM`` the most it held."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:"))
    return float(line.split()[1]) / 1024


def set_up(name: str, steps: int, threads: int) -> tuple[int, list[Pair]]:
    """Batch size and pairs of a set; quiet libraries."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    return BATCH[name], make_pairs(name, BATCH[name], steps)


def make_models(folder: Path) -> None:
    """Policy and reference as folders."""
    tiny_llama(CONTEXT).save(folder / "policy")
    tiny_llama(CONTEXT, seed=1).save(folder / "reference")


def peer(folder: Path, pairs: list[Pair], size: int, precision: str, alone: bool = False) -> tuple[Any, Any]:
    """TRL's trainer, and the callback that times its steps and gives us every second turn unless it is alone."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    turns = taking_turns()
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=size,
        learning_rate=LEARNING_RATE,
        beta=BETA,
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
    trainer = DPOTrainer(
        model=str(folder / "policy"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "reference"),
        args=config,
        train_dataset=data,
        callbacks=[] if alone else [turns],
    )
    return trainer, turns


def ours(folder: Path, pairs: list[Pair], size: int, precision: str) -> tuple[Any, Iterator[Any]]:
    """Our learner, and the loop as an iterator of steps."""
    from accelerate import Accelerator

    from trueup.core.rng import Key
    from trueup.decoding.rollout import Rollout
    from trueup.loop.config import LoopConfig
    from trueup.loop.train import train
    from trueup.models.policy import load_policy, reference_of
    from trueup.optimizers.dpo import DPOConfig
    from trueup.optimizers.protocol import Parts
    from trueup.rewards.absent import AbsentReward

    policy = load_policy(folder / "policy", precision=precision)
    reference = reference_of(load_policy(folder / "reference", precision=precision))
    learner = DPOConfig(beta=BETA).build(Parts(policy=policy, reference=reference, reward=AbsentReward(), rollout=Rollout(policy)))
    steps = len(pairs) // size
    config = LoopConfig(learning_rate=LEARNING_RATE, lr_scheduler_type="linear")
    batches = [batch_of(pairs[i * size : (i + 1) * size]) for i in range(steps)]
    return learner, train(learner, batches.__getitem__, steps=steps, config=config, key=Key(0), accelerator=Accelerator(cpu=True))


def check_tokens(trainer: Any, learner: Any, pairs: list[Pair], size: int) -> None:
    """Both sides must read the same tokens."""
    from trueup.core.rng import Key

    sequences = learner.collect(batch_of(pairs[:size]), Key(0)).sequences.unstacked()
    mine = [row[kept].tolist() for row, kept in zip(sequences.tokens, sequences.attention().bool(), strict=True)]
    rows = trainer.train_dataset.select(range(size))
    theirs = [row["prompt_ids"] + row[side] for row in rows for side in ("chosen_ids", "rejected_ids")]
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


def flops(pairs: list[Pair], shared: bool) -> float:
    """Matrix products of one step on each pair, without padding: forward under the reference, forward and backward under the policy.

    Args:
        pairs: prompts with two replies each.
        shared: a prompt is computed once, not once a reply.
    """
    lengths = [pair.tokens() for pair in pairs]
    tokens = sum((1 if shared else 2) * p + a + b for p, a, b in lengths)
    return 4 * (LAYERS * LAYER * tokens + HEAD * sum(a + b for _, a, b in lengths))


if __name__ == "__main__":
    main()
