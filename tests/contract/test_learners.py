"""What every learner must satisfy. A new one adds one line to LEARNERS and gets all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests_support import WORDS, gradients, parameters, summed_parts, tiny_parts, tiny_policy, tiny_reward
from trueup.core.component import kinds, offered
from trueup.core.config import resolve
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Judged, Preference, Prompt, Reply, judged
from trueup.data.segments import Category
from trueup.data.spans import Marked, Span
from trueup.data.tokens import Sequences
from trueup.learn.table import Examples, Mean, Table
from trueup.loop.config import LoopConfig
from trueup.loop.state import load_state, save_state
from trueup.loop.train import train
from trueup.optimizers.a_lol import ALoLConfig
from trueup.optimizers.advantage_model_ppo import AdvantageModelPPOConfig
from trueup.optimizers.best_of_n_distill import BestOfNDistillConfig
from trueup.optimizers.constrained import ConstrainedConfig
from trueup.optimizers.dpo import DPOConfig
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.grpo import GRPOConfig
from trueup.optimizers.ilql import ILQLConfig
from trueup.optimizers.inclusive import InclusiveConfig
from trueup.optimizers.ipo import IPOConfig
from trueup.optimizers.kto import KTOConfig
from trueup.optimizers.online_dpo import OnlineDPOConfig
from trueup.optimizers.p3o import P3OConfig
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.raft import RaftConfig
from trueup.optimizers.reinforce import ReinforceConfig
from trueup.optimizers.remax import RemaxConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.optimizers.sft import SFT
from trueup.rewards.dense.fudge import FudgeConfig
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets
from trueup.rewards.fit import RewardLearner
from trueup.rewards.fit_dense import DenseLearner, MarkedBatch
from trueup.rewards.fit_prefix import PrefixLearner, ScoredReplies
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig
from trueup.rewards.objectives.protocol import Judgements, ObjectiveConfig

ONLINE = {"max_completion_length": 6, "num_generations": 4}


def text(key: Key, longest: int = 5) -> str:
    g = key.generator()
    return " ".join(g.choice(WORDS, size=g.integers(1, longest + 1)))


def prompts(rows: int, key: Key) -> PromptBatch:
    asked = tuple(text(key / i, 3) for i in range(rows))
    tokenizer = tiny_policy().tokenizer
    return PromptBatch(row=torch.arange(rows), prompt=asked, ids=tuple(tuple(tokenizer(t)["input_ids"]) for t in asked))


def prompt(key: Key) -> Prompt:
    return Prompt(id="p", text=text(key, 3))


def reply(key: Key) -> Reply:
    return Reply(text=text(key), finished=bool(key.generator().random() < 0.7))


def demonstrations(rows: int, key: Key) -> Examples[Demonstration]:
    found = tuple(Demonstration(prompt=prompt(key / i), reply=reply(key / i / "r")) for i in range(rows))
    return Examples(row=torch.arange(rows), example=found)


def shown() -> tuple[Demonstration, ...]:
    """What a world gives an optimizer to mix in."""
    return demonstrations(5, Key(11)).example


def preferences(rows: int, key: Key) -> Examples[Judged]:
    found = tuple(
        judged(Preference(id=str(i), prompt=prompt(key / i), chosen=reply(key / i / "c"), rejected=reply(key / i / "r")))
        for i in range(rows)
    )
    return Examples(row=torch.arange(rows), example=found)


def groups(rows: int, key: Key) -> Examples[Judged]:
    """Groups of two to four replies, with ties, margins, and one group in which all are tied."""
    found = []
    for i in range(rows):
        size = 2 + i % 3
        ratings = tuple(float(x) for x in (key / i / "rating").generator().integers(0, 3, size)) if i else (1.0,) * size
        found.append(
            Judged(
                id=str(i), prompt=prompt(key / i), replies=tuple(reply(key / i / j) for j in range(size)), ratings=ratings, margin=0.5 * i
            )
        )
    return Examples(row=torch.arange(rows), example=tuple(found))


@dataclass(frozen=True)
class Case:
    build: Callable[[], Any]
    data: Callable[[int, Key], Any]


def reward_learner(kind: str) -> RewardLearner:
    """Every objective of the folder is under this contract by being there."""
    objective = resolve("trueup.rewards.objectives", ObjectiveConfig, {"kind": kind})
    return RewardLearner(objective, tiny_reward(outputs=objective.outputs))


def dense_learner(kind: str) -> DenseLearner:
    objective = resolve("trueup.rewards.dense", DenseObjectiveConfig, {"kind": kind})
    return DenseLearner(objective, tiny_reward(outputs=2), CATEGORIES)


CATEGORIES = (Category(name="lines", labels=("wrong",), unit="line"), Category(name="whole", labels=("short", "wrong"), unit="reply"))


def marked(rows: int, key: Key) -> MarkedBatch:
    """Replies of one to three lines, some of them wrong."""
    found = []
    for i in range(rows):
        lines = [text(key / i / j, 3) for j in range(1 + i % 3)]
        starts = [sum(len(x) + 1 for x in lines[:j]) for j in range(len(lines))]
        wrong = (key / i / "wrong").generator().random(len(lines)) < 0.5
        spans = [Span(start=s, end=s + len(x), label="wrong") for s, x, w in zip(starts, lines, wrong, strict=True) if w]
        answer = Reply(text="\n".join(lines), finished=i % 2 == 0)
        found.append(Marked(id=str(i), prompt=prompt(key / i), reply=answer, spans=tuple(spans)))
    return MarkedBatch(row=torch.arange(rows), marked=tuple(found))


def scored(rows: int, key: Key) -> ScoredReplies:
    """Replies as a policy's tokens, with scores."""
    batch, learner = marked(rows, key), dense_learner("values")
    return ScoredReplies(sequences=learner.collect(batch, key).sequences, score=torch.linspace(-1, 2, rows))


LEARNERS = {
    "sft": Case(lambda: SFT(tiny_policy()), demonstrations),
    "rloo": Case(lambda: RLOOConfig(**ONLINE).build(tiny_parts()), prompts),
    "ppo": Case(lambda: PPOConfig(**ONLINE, whiten_rewards=True, target_kl_nats=1.0).build(tiny_parts()), prompts),
    "dpo": Case(lambda: DPOConfig(label_smoothing=0.1, length_alpha=0.05).build(tiny_parts()), preferences),
    "ipo": Case(lambda: IPOConfig().build(tiny_parts()), preferences),
    "inclusive": Case(lambda: InclusiveConfig().build(tiny_parts()), preferences),
    "ppo with demonstrations": Case(
        lambda: PPOConfig(**ONLINE, ptx_coef=0.5).build(replace(tiny_parts(), demonstrations=shown())), prompts
    ),
    "kto": Case(lambda: KTOConfig(undesirable_weight=0.5).build(tiny_parts()), preferences),
    "constrained": Case(lambda: ConstrainedConfig(**ONLINE, thresholds={"good": 0.5}, variant="all").build(summed_parts()), prompts),
    "a_lol": Case(lambda: ALoLConfig(variant="seq", max_completion_length=6).build(tiny_parts()), preferences),
    "ilql": Case(lambda: ILQLConfig(target_share=0.5).build(tiny_parts()), preferences),
    "advantage_model_ppo": Case(
        lambda: AdvantageModelPPOConfig(**ONLINE, clusters=2, per_cluster=1).build(replace(tiny_parts(), demonstrations=shown())), prompts
    ),
    "reinforce": Case(lambda: ReinforceConfig(**ONLINE, kl_penalty="k2").build(tiny_parts()), prompts),
    "remax": Case(lambda: RemaxConfig(**ONLINE, kl_penalty="k3").build(tiny_parts()), prompts),
    "grpo": Case(lambda: GRPOConfig(**ONLINE, beta=0.1, epsilon_high=0.3, loss_type="grpo").build(tiny_parts()), prompts),
    "grpo by batch": Case(
        lambda: GRPOConfig(**ONLINE, beta=0.1, kl_penalty="k2", scale_rewards="batch", loss_type="dr_grpo").build(tiny_parts()), prompts
    ),
    "p3o": Case(lambda: P3OConfig(**ONLINE).build(tiny_parts()), prompts),
    "p3o, ratios apart": Case(lambda: P3OConfig(**ONLINE, clipping="separate", kl_penalty="sqrt_chi2").build(tiny_parts()), prompts),
    "raft": Case(lambda: RaftConfig(**ONLINE, accumulate=True).build(tiny_parts()), prompts),
    "raft on the whole batch": Case(lambda: RaftConfig(**ONLINE, select="batch").build(tiny_parts()), prompts),
    "best_of_n_distill": Case(lambda: BestOfNDistillConfig(**ONLINE).build(tiny_parts()), prompts),
    "online_dpo": Case(lambda: OnlineDPOConfig(max_completion_length=6).build(tiny_parts()), prompts),
    "prefixes": Case(lambda: PrefixLearner(FudgeConfig(), tiny_reward()), scored),
    "pairs": Case(lambda: RewardLearner(BradleyTerryConfig(center_rewards_coefficient=0.1), tiny_reward()), preferences),
    "pairs without ties": Case(lambda: RewardLearner(BradleyTerryConfig(ties="drop"), tiny_reward()), groups),
    **{kind: Case(partial(reward_learner, kind), groups) for kind in kinds("trueup.rewards.objectives") if kind != "protocol"},
    **{kind: Case(partial(dense_learner, kind), marked) for kind in kinds("trueup.rewards.dense") if kind != "protocol"},
}


@pytest.fixture(params=LEARNERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(name: str, rows: int = 6) -> tuple[Any, Any]:
    """A learner, and experience that it has since moved away from."""
    learner = LEARNERS[name].build()
    with torch.no_grad():
        e = learner.collect(LEARNERS[name].data(rows, Key(3)), Key(4))
        g = torch.Generator().manual_seed(5)
        for p in parameters(learner):
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
    return learner, e


def assert_same(a: tuple[list[torch.Tensor], dict[str, Mean]], b: tuple[list[torch.Tensor], dict[str, Mean]]) -> None:
    assert {k: m.value for k, m in a[1].items()} == pytest.approx({k: m.value for k, m in b[1].items()}, rel=1e-4, abs=1e-6)
    assert len(a[0]) == len(b[0]) > 0
    for x, y in zip(a[0], b[0], strict=True):
        assert torch.isfinite(y).all()
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


def change(e: Any, edit: Callable[[Sequences], Sequences], pad: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """The experience with its padding edited: in sequences by ``edit``, in columns of tokens ([B, T], or [B, 2, T] of pairs) by ``pad``."""
    out = {}
    for f in fields(e):
        x = getattr(e, f.name)
        if isinstance(x, Sequences):
            out[f.name] = edit(x.unstacked()).stacked(x.tokens.shape[1]) if x.tokens.dim() == 3 else edit(x)
        elif isinstance(x, Judgements):
            absent = {c: torch.where(x.present, getattr(x, c), torch.full_like(x.rating, float("nan"))) for c in ("rating", "length")}
            out[f.name] = replace(x, **absent)
        elif isinstance(x, SegmentTargets):
            out[f.name] = replace(x, target=torch.where(x.present, x.target, torch.full_like(x.target, float("nan"))))
        elif isinstance(x, torch.Tensor) and x.dim() > 1 and x.shape == e.sequences.mask.shape:
            out[f.name] = pad(x, e.sequences.mask)
        elif isinstance(x, torch.Tensor) and x.dim() == 3 and x.shape[:2] == e.sequences.mask.shape:  # several values a token
            out[f.name] = torch.stack([pad(column, e.sequences.mask) for column in x.unbind(-1)], -1)
    return replace(e, **out)


def has_padding(e: Any) -> bool:
    return any((~x.mask).any() for x in (getattr(e, f.name) for f in fields(e)) if isinstance(x, Sequences))


def test_padding_never_matters(name: str) -> None:
    learner, e = made(name)
    assert has_padding(e), "the toy data must contain padding"

    def poison(s: Sequences) -> Sequences:
        tokens, real = s.tokens.clone(), s.attention().bool()
        tokens[~real] = 3
        return replace(s, tokens=tokens)

    def nan(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, x, torch.full_like(x, float("nan"))) if x.is_floating_point() else x

    assert_same(gradients(learner, e), gradients(learner, change(e, poison, nan)))


def test_more_padding_changes_nothing(name: str) -> None:
    learner, e = made(name)

    def widen(s: Sequences) -> Sequences:
        return s.widen(s.prompt_width + 2, s.mask.shape[1] + 3, 4)

    def wider(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.full((*x.shape[:-1], 3), float("nan") if x.is_floating_point() else 0, dtype=x.dtype)], -1)

    assert_same(gradients(learner, e), gradients(learner, change(e, widen, wider)))


@pytest.mark.parametrize("micro", [1, 5])
def test_micro_batches_change_nothing(name: str, micro: int) -> None:
    learner, e = made(name)
    assert_same(gradients(learner, e), gradients(learner, e, micro=micro))


def test_row_order_changes_nothing(name: str) -> None:
    learner, e = made(name)
    order = torch.randperm(len(e), generator=torch.Generator().manual_seed(8))
    assert_same(gradients(learner, e), gradients(learner, e.take(order)))


def test_totals_are_global(name: str) -> None:
    """Two processes with half the rows each, and summed totals, make the gradient of the whole."""
    learner, e = made(name)
    half = len(e) // 2
    parts = [e.take(torch.arange(half)), e.take(torch.arange(half, len(e)))]
    totals = sum(learner.totals(p) for p in parts)
    whole, _ = gradients(learner, e)
    grads = [gradients(learner, p, learner.weigh(p, totals))[0] for p in parts]
    for w, a, b in zip(whole, *grads, strict=True):
        torch.testing.assert_close(w, a + b, rtol=1e-3, atol=1e-6)


def run(name: str, probe: bool, steps: int = 3) -> list[torch.Tensor]:
    learner = LEARNERS[name].build()
    config = LoopConfig(num_iterations=2, minibatch_rows=4)
    for _ in train(
        learner, lambda i: LEARNERS[name].data(4, Key(i)), steps=steps, config=config, key=Key(7), accelerator=Accelerator(cpu=True)
    ):
        if probe:
            torch.rand(5)  # a careless probe draws from the global stream
            Key(7).generator().random(9)
    return [p.detach().clone() for p in parameters(learner)]


def test_same_seed_same_weights_with_or_without_probes(name: str) -> None:
    for a, b in zip(run(name, False), run(name, True), strict=True):
        assert torch.equal(a, b)


def test_stopped_and_resumed_is_bit_identical(name: str, tmp_path: Any) -> None:
    config, data = LoopConfig(num_iterations=2, minibatch_rows=4, lr_scheduler_type="cosine"), LEARNERS[name].data

    def steps(learner: Any, start: Any = None, stop: int | None = None) -> Any:
        return train(
            learner,
            lambda i: data(4, Key(i)),
            steps=4,
            config=config,
            key=Key(7),
            accelerator=Accelerator(cpu=True),
            start=start,
            stop=stop,
        )

    whole = LEARNERS[name].build()
    metrics = [s.metrics for s in steps(whole)]
    first = LEARNERS[name].build()
    for s in steps(first, stop=2):
        save_state(tmp_path / "state", s.snapshot())
    again = LEARNERS[name].build()
    resumed = [s.metrics for s in steps(again, load_state(tmp_path / "state"))]
    assert resumed == metrics[2:]
    for a, b in zip(parameters(whole), parameters(again), strict=True):
        assert torch.equal(a, b)


def test_experience_is_constant(name: str) -> None:
    def tensors(t: Table) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for f in fields(t):
            x = getattr(t, f.name)
            found += [x] if isinstance(x, torch.Tensor) else tensors(x) if isinstance(x, Table) else []
        return found

    _, e = made(name)
    assert tensors(e)
    assert not any(x.requires_grad for x in tensors(e))


def test_every_optimizer_is_under_this_contract() -> None:
    from trueup.optimizers.protocol import OptimizerConfig

    assert set(offered("trueup.optimizers", OptimizerConfig)) <= set(LEARNERS)
    assert set(offered("trueup.rewards.objectives", ObjectiveConfig)) <= set(LEARNERS)
    assert set(offered("trueup.rewards.dense", DenseObjectiveConfig)) <= set(LEARNERS)
