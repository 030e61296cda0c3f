"""The links to evaluation: each diagnosis alarms where its mismatch was planted, and is quiet where none is, or only half of it."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.planted.evaluation_worlds import Planted, frame
from trueup.core.rng import Key
from trueup.mismatch.policy_evaluation import alignment_tax, diversity, next_token_loss, positions, refusal_balance, sensitivity
from trueup.mismatch.reward_evaluation import consistency, implicit_reward, rank_transfer, style
from trueup.mismatch.reward_evaluation.rank_transfer import RankTransfer, Transferred
from trueup.mismatch.verdict import MismatchSettings

SEEDS = 30
NONE = Planted()
WORSE = Planted(harm=1.0)
"""Gold falls, for no reason that the diagnosis looks for."""
CASES: list[tuple[ModuleType, Planted, bool]] = [
    (alignment_tax, NONE, False),
    (alignment_tax, Planted(forgetting=0.4), False),  # shown, but gold rose all the while
    (alignment_tax, Planted(forgetting=0.4, harm=1.0), True),
    (refusal_balance, NONE, False),
    (refusal_balance, Planted(refusing=0.1, answering=-0.4, harm=1.0), False),  # more refusals, bought with far fewer harmful answers
    (refusal_balance, Planted(refusing=0.35, harm=1.0), True),
    (refusal_balance, Planted(answering=0.4, harm=1.0), True),
    (diversity, NONE, False),
    (diversity, Planted(sameness=0.5), False),  # narrower, as every optimised policy is
    (diversity, Planted(sameness=0.995), True),
    (implicit_reward, NONE, False),
    (implicit_reward, WORSE, False),
    (implicit_reward, Planted(likes_bad=True), False),  # against the truth, but no harm done
    (implicit_reward, Planted(likes_bad=True, harm=1.0), True),
    (style, NONE, False),
    (style, WORSE, False),
    (style, Planted(flattery=0.8, harm=1.0), True),
    (sensitivity, NONE, False),
    (sensitivity, WORSE, False),
    (sensitivity, Planted(brittle=1.0), True),
    (positions, NONE, False),
    (positions, WORSE, False),
    (positions, Planted(tail_paid=0.5, harm=1.0), True),
    (consistency, NONE, False),
    (consistency, Planted(wordblind=0.2), True),
    (next_token_loss, NONE, False),
    (next_token_loss, Planted(leaving=0.5), False),  # the loss rises and so does gold
    (next_token_loss, Planted(leaving=0.5, harm=2.0), True),  # the last one is worse than the first
]


@pytest.mark.parametrize(("module", "plant", "planted"), CASES, ids=lambda v: v.NAME if isinstance(v, ModuleType) else str(v))
def test_planted(module: ModuleType, plant: Planted, planted: bool) -> None:
    settings = getattr(MismatchSettings(), module.NAME).model_copy(update={"draws": 250})
    verdicts = [module.diagnose(frame(plant, seed), "a", settings, Key(seed) / "d").verdict for seed in range(SEEDS)]
    assert "not enough data" not in verdicts
    rate = verdicts.count("alarm") / SEEDS
    assert rate >= 0.9 if planted else rate <= 0.1, rate


@pytest.mark.parametrize(
    ("module", "plant", "planted"),
    [
        (alignment_tax, NONE, False),
        (alignment_tax, Planted(forgetting=0.4), True),
        (refusal_balance, NONE, False),
        (refusal_balance, Planted(answering=0.4), True),
    ],
)
def test_without_gold_the_evaluations_themselves_are_the_harm(module: ModuleType, plant: Planted, planted: bool) -> None:
    settings = getattr(MismatchSettings(), module.NAME).model_copy(update={"draws": 250})
    found = [module.diagnose(frame(plant, seed).drop(columns="gold"), "a", settings, Key(seed) / "d").verdict for seed in range(SEEDS)]
    assert found.count("alarm") / SEEDS >= 0.9 if planted else found.count("alarm") / SEEDS <= 0.1


@pytest.mark.parametrize(("follows", "expected"), [(2.0, "quiet"), (0.0, "no difference shown"), (-2.0, "alarm")])
def test_rank_transfer(follows: float, expected: str) -> None:
    verdicts = []
    for seed in range(SEEDS):
        g = (Key(seed) / "runs").generator()
        quality = g.normal(size=24)
        outcome = follows * quality + g.normal(size=24)
        rows = [
            Transferred(name=str(i), measures={"offline_accuracy": 0.65 + 0.02 * q}, outcome=o)
            for i, (q, o) in enumerate(zip(quality, outcome, strict=True))
        ]
        verdicts.append(rank_transfer.compare(rows, RankTransfer(draws=250), Key(seed)).verdict)
    assert verdicts.count(expected) / SEEDS >= 0.9, verdicts
