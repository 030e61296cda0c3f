"""Pairs a second of reward-model training against TRL's `RewardTrainer`: same model, pairs and batches, in one process, turn by turn.

Work: a reward model on the Llama trunk of `rollout_vs_trl.py` (8.4 M parameters with its language head; 6 layers, width 256, 8 heads,
vocabulary 4,096); one step = forward pass of all chosen and rejected replies, Bradley-Terry loss, backward pass, AdamW step (ours also
encodes the texts; TRL has done so before). The sets of pairs, and how the two sides take turns and are held to equal work: `pairs.py`.

Shares of the matrix rate: ``asked`` counts every reply with a prompt of its own and all layers whole, without padding; ``done`` counts
what our path computes (each prompt once, the last layer only where it is read).

Then scoring, on the dialogue replies: scores a second, share of the matrix rate, and the time of five heads on one trunk over that of one.

    pip install 'trueup[peers]'
    python benchmarks/reward_vs_trl.py [--steps 6] [--threads N] [--json FILE]

The last line is ``ratio X.XX``, the smallest over precisions and sets: our pairs a second over TRL's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from pairs import Pair, batch_of, check, figures, learned_apart, loss_difference, options, run_all, set_up
from timing import matrix_rate, now, since, taking_turns
from tiny_llama import LAYER, LAYERS, WIDTH, tiny_llama

CONTEXT = 512
LEARNING_RATE, MEMBERS = 1e-4, 5


def main() -> None:
    parser = options(__doc__)
    args = parser.parse_args()
    check(parser, args)
    if args.precision:
        args.out.write_text(json.dumps(measure(args.precision, args.pairs, args.steps, args.threads)))
        return
    run_all(__file__, args, lambda precision, results: show_scoring(precision, results[f"{precision} dialogue"]))


def show_scoring(precision: str, r: dict[str, Any]) -> None:
    print(
        f"{precision} scoring: {r['scores_per_s']:.0f} replies/s, {r['scoring_share']:.0%} of the matrix rate as asked, "
        f"{r['scoring_done']:.0%} done; {MEMBERS} heads on one trunk cost {r['heads_ratio']:.2f} of one",
        flush=True,
    )


def measure(precision: str, name: str, steps: int, threads: int) -> dict[str, Any]:
    import torch

    size, pairs = set_up(name, steps, threads)
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
        apart = learned_apart(before, learner.model.module, trainer.model, precision)
    rate = max(rate, matrix_rate(dtype))
    return {
        **figures(pairs, size, turns.ours[1:], turns.peer[1:], rate, 3 * flops_asked(pairs), 3 * flops_done(pairs)),
        "loss_difference": difference,
        "learned_apart": apart,
        **(scoring(learner, pairs, precision, rate) if name == "dialogue" else {}),
    }


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


def check_tokens(trainer: Any, learner: Any, pairs: list[Pair], size: int) -> None:
    """Both sides must read the same tokens."""
    from trueup.core.rng import Key

    features = learner.collect(batch_of(pairs[:size]), Key(0)).features.unstacked()
    mine = [row[kept].tolist() for row, kept in zip(features.tokens, features.attention().bool(), strict=True)]
    theirs = [ids for row in trainer.train_dataset.select(range(size)) for ids in (row["chosen_ids"], row["rejected_ids"])]
    if mine != theirs:
        sys.exit("the two sides read different tokens")


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


if __name__ == "__main__":
    main()
