"""Pairs a second of DPO training against TRL's `DPOTrainer`: same models, pairs and batches, in one process, turn by turn.

Work: policy and reference are the Llama of `tiny_llama.py`, the reference with other weights, so that losses are not all ln 2; one step =
log-probabilities of all chosen and rejected replies under the reference and under the policy, sigmoid loss, backward pass, AdamW step
(ours also encodes the texts; TRL has done so before). The sets of pairs, and how the two sides take turns and are held to equal work:
`pairs.py`.

Memory: each side alone in a process of its own takes the steps of ``dialogue``; the peak of resident memory over what stood there
before the first one.

    pip install 'trueup[peers]'
    python benchmarks/dpo_vs_trl.py [--steps 6] [--threads N] [--json FILE]

The last line is ``ratio X.XX``, the smallest over precisions and sets: our pairs a second over TRL's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pairs import Pair, batch_of, check, figures, learned_apart, loss_difference, options, run_all, set_up
from timing import in_process, matrix_rate, taking_turns
from tiny_llama import HEAD, LAYER, LAYERS, tiny_llama

CONTEXT, BETA, LEARNING_RATE = 512, 0.1, 1e-5
SIDES = ("ours", "peer")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    check(parser, args)
    if args.memory:
        args.out.write_text(json.dumps(memory(args.memory, args.precision, args.steps, args.threads)))
        return
    if args.precision:
        args.out.write_text(json.dumps(measure(args.precision, args.pairs, args.steps, args.threads)))
        return

    def peaks(precision: str, results: dict[str, dict[str, Any]]) -> None:
        each = {"precision": precision, "steps": args.steps, "threads": args.threads}
        found = {side: in_process(__file__, {"memory": side, **each})["peak_mb"] for side in SIDES}
        results[f"{precision} dialogue"]["peak_mb"] = found
        print(f"{precision} peak memory over what stood before: trueup {found['ours']:.0f} MB, TRL {found['peer']:.0f} MB", flush=True)

    run_all(__file__, args, peaks)


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
    return {
        **figures(pairs, size, turns.ours[1:], turns.peer[1:], rate, flops(pairs, shared=False), flops(pairs, shared=True)),
        "loss_difference": difference,
        "learned_apart": apart,
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
