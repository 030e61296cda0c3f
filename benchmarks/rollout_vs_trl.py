"""Whole RLOO updates a second against TRL's `RLOOTrainer`: same models, prompts, lengths and settings, in one process, turn by turn.

Work: Llama policy of 8.4 M parameters (6 layers, width 256, 8 heads, vocabulary 4,096), reference and reward model of the same size;
16 prompts of 8-24 tokens x 4 samples x 48 tokens; one update = sampling, scoring by policy, reference and reward model, loss, backward
pass, optimizer step. Done at TRL's own default precision (bf16 autocast) and in float32, each in a process of its own; within one, a TRL
step and one of ours take turns, so that a busy machine slows both, and the ratio is the median over turns of TRL's time over ours (beside
it, the same for processor time, which other programs disturb less). Gradient checkpointing, TRL's default, is off: it would only slow TRL
down here.

Before timing, equal inputs must give equal losses: 1e-5 in float32, 1e-2 in bf16.

    pip install 'trueup[peers]'
    python benchmarks/rollout_vs_trl.py [--steps 8] [--threads N] [--json FILE]

The last line is ``ratio X.XX``, the smaller of the two precisions' ratios: our completions a second over TRL's.
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
from pathlib import Path
from statistics import median
from typing import Any

from timing import in_process, matrix_rate, taking_turns
from tiny_llama import HEAD, LAYER, LAYERS, VOCABULARY, tiny_llama

PROMPTS, SAMPLES, TOKENS = 16, 4, 48
BETA, LEARNING_RATE = 0.05, 1e-5
ROWS = PROMPTS * SAMPLES
TOLERANCE = {"float32": 1e-5, "bf16": 1e-2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="timed updates of each side and precision")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads, alike for both sides")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--precision", choices=("float32", "bf16"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.precision:
        args.out.write_text(json.dumps(measure(args.precision, args.steps, args.threads)))
        return
    options = {"steps": args.steps, "threads": args.threads}
    results = {precision: in_process(__file__, {"precision": precision, **options}) for precision in ("bf16", "float32")}
    for precision, r in results.items():
        print(
            f"{precision}: ratio {r['ratio']:.2f}, by processor time {r['processor_ratio']:.2f}; "
            f"losses differ by {r['loss_difference']:.1e}"
        )
        print(f"  matrix rate {r['matrix_rate_gflops']:.0f} GFLOP/s")
        for side, name in (("ours", "trueup"), ("peer", "TRL")):
            print(f"  {name:6} {r[f'{side}_completions_per_s']:5.1f} completions/s, {r[f'{side}_share']:.0%} of the matrix rate")
    ratio = min(r["ratio"] for r in results.values())
    if args.json:
        args.json.write_text(json.dumps({"ratio": ratio, "threads": args.threads, **results}, indent=2) + "\n")
    print(f"ratio {ratio:.2f}")


def measure(precision: str, steps: int, threads: int) -> dict[str, Any]:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        texts = make_models(Path(folder))
        trainer, turns = peer(Path(folder), texts, precision, steps)
        parts, loop = ours(Path(folder), texts, precision)
        difference = loss_difference(trainer, parts, texts, precision)
        turns.other = loop
        trainer.train()
    pairs = list(zip(turns.ours, turns.peer, strict=True))[1:]  # the first turn warms up
    mine, theirs = median(o[0] for o, _ in pairs), median(p[0] for _, p in pairs)
    rate = matrix_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
    work = nominal_flops(texts)
    return {
        "ratio": median(p[0] / o[0] for o, p in pairs),
        "processor_ratio": median(p[1] / o[1] for o, p in pairs),
        "ours_s": [o[0] for o, _ in pairs],
        "peer_s": [p[0] for _, p in pairs],
        "ours_completions_per_s": ROWS / mine,
        "peer_completions_per_s": ROWS / theirs,
        "loss_difference": difference,
        "matrix_rate_gflops": rate / 1e9,
        "ours_share": work / mine / rate,
        "peer_share": work / theirs / rate,
    }


def make_models(folder: Path) -> list[str]:
    """Policy and reward model as folders, and the prompts."""
    from trueup.core.rng import Key
    from trueup.models.reward import reward_from_policy

    policy = tiny_llama(128)
    policy.save(folder / "policy")
    reward_from_policy(policy, Key(1)).save(folder / "reward")
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(VOCABULARY - 3)}" for _ in range(draw.randint(8, 24))) for _ in range(PROMPTS)]


def peer(folder: Path, texts: list[str], precision: str, steps: int) -> tuple[Any, Any]:
    """TRL's trainer, and the callback that times its steps and gives us every second turn."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    turns = taking_turns()
    config = RLOOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=ROWS,
        num_generations=SAMPLES,
        max_completion_length=TOKENS,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        max_steps=steps + 1,
        bf16=precision == "bf16",
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        logging_steps=1000,
        save_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_list([{"prompt": text} for text in texts])
    trainer = RLOOTrainer(
        model=str(folder / "policy"), reward_funcs=str(folder / "reward"), args=config, train_dataset=data, callbacks=[turns]
    )
    return trainer, turns


def ours(folder: Path, texts: list[str], precision: str) -> tuple[Any, Iterator[Any]]:
    """Our learner's parts, and the loop as an iterator of steps."""
    import torch
    from accelerate import Accelerator

    from trueup.core.rng import Key
    from trueup.data.tokens import encode_prompts
    from trueup.decoding.rollout import Rollout
    from trueup.loop.config import LoopConfig
    from trueup.loop.train import train
    from trueup.models.policy import load_policy, reference_of
    from trueup.models.reward import load_reward
    from trueup.optimizers.experience import PromptBatch
    from trueup.optimizers.protocol import Parts
    from trueup.optimizers.rloo import RLOOConfig
    from trueup.rewards.learned import LearnedReward

    policy = load_policy(folder / "policy", precision=precision)
    reward = load_reward(folder / "reward", precision=precision)
    parts = Parts(
        policy=policy,
        reference=reference_of(policy),
        reward=LearnedReward(reward, policy_tokenizer=policy.tokenizer),
        rollout=Rollout(policy, precision),
    )
    config = RLOOConfig(num_generations=SAMPLES, max_completion_length=TOKENS, beta=BETA)
    ids = encode_prompts(policy.tokenizer, texts)
    batch = PromptBatch(row=torch.arange(PROMPTS), prompt=tuple(texts), ids=tuple(tuple(row) for row in ids))
    loop = LoopConfig(learning_rate=LEARNING_RATE)
    steps = train(config.build(parts), lambda _: batch, steps=1_000_000, config=loop, key=Key(0), accelerator=Accelerator(cpu=True))
    return parts, steps


def loss_difference(trainer: Any, parts: Any, texts: list[str], precision: str) -> float:
    """|our loss - TRL's| on the same completions, old log-probabilities and advantages; more than the tolerance ends the benchmark."""
    import torch

    from trueup.core.rng import Key
    from trueup.data.tokens import encode_prompts
    from trueup.optimizers.rloo import RLOO, RLOOConfig
    from trueup.optimizers.whole_reply import WholeReplies

    ids = encode_prompts(parts.policy.tokenizer, texts)
    sampled = parts.rollout.sample(ids, num_samples=SAMPLES, max_tokens=TOKENS, key=Key(5))
    seq, generator = sampled.sequences, torch.Generator().manual_seed(0)
    # as if the policy had moved: ratios and advantages that are not all one, on both sides of the clipping range
    old = (sampled.logp_sampling + 0.03 * torch.randn(seq.mask.shape, generator=generator)) * seq.mask
    advantage = 1 + torch.randn(ROWS, generator=generator)
    zeros = torch.zeros(ROWS)
    experience = WholeReplies(
        sequences=seq,
        logp_old=old,
        logp_ref=old,
        advantage=advantage,
        importance=torch.ones(ROWS),
        score=zeros,
        finished=zeros.bool(),
        kl=zeros,
        kl_k3=zeros,
        sampling_gap=zeros,
    )
    learner = RLOO(RLOOConfig(num_generations=SAMPLES, max_completion_length=TOKENS, beta=BETA), parts)
    inputs = {
        "prompt_ids": seq.tokens[:, : seq.prompt_width],
        "prompt_mask": seq.prompt_mask.long(),
        "completion_ids": seq.replies,
        "completion_mask": seq.mask.long(),
        "old_logps": old.sum(1),
        "advantages": advantage,
    }
    with torch.no_grad():
        mine = learner.loss(experience, learner.weigh(experience, learner.totals(experience))).value.item()
        theirs = trainer._compute_loss(trainer.model, inputs).item()
    trainer._metrics["train"].clear()
    trainer._metrics["eval"].clear()
    if not abs(mine - theirs) <= TOLERANCE[precision] * max(1.0, abs(theirs)):
        sys.exit(f"equal inputs give unequal losses in {precision}: ours {mine}, TRL {theirs}")
    return abs(mine - theirs)


def nominal_flops(texts: list[str]) -> float:
    """Multiply-adds (twice) of the work as stated, without padding or sharing: what both sides are asked to do."""
    trunk, head = LAYERS * LAYER, HEAD
    prompts = sum(len(text.split()) for text in texts)
    tokens = SAMPLES * prompts + ROWS * TOKENS
    forward, heads = trunk * tokens, head * ROWS * TOKENS
    sampling = trunk * (prompts + ROWS * TOKENS) + heads
    scoring = 3 * forward + 2 * heads  # policy and reference with a head, the reward model without
    return sampling + scoring + 3 * (forward + heads)


if __name__ == "__main__":
    main()
