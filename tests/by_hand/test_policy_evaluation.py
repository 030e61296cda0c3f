"""Diagnoses of policy and evaluation by hand: replies without noise, so that every number is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from by_hand.replies import Cell, replies
from trueup.core.rng import Key
from trueup.mismatch.policy_evaluation import alignment_tax, diversity, next_token_loss, positions, refusal_balance, sensitivity
from trueup.mismatch.policy_evaluation.alignment_tax import AlignmentTax
from trueup.mismatch.policy_evaluation.diversity import Diversity, ead
from trueup.mismatch.policy_evaluation.next_token_loss import NextTokenLoss
from trueup.mismatch.policy_evaluation.positions import Positions
from trueup.mismatch.policy_evaluation.refusal_balance import RefusalBalance
from trueup.mismatch.policy_evaluation.sensitivity import Sensitivity

PROMPTS = 12


def records(cell: Cell, steps: int = 2, samples: int = 1, variant: str | None = None) -> pd.DataFrame:
    """As `replies`, for the prompts of this file."""
    return replies(cell, PROMPTS, steps, samples, variant)


def effect(p: int) -> float:
    """What a prompt adds to gold: -1 or 1, so that gold has a standard deviation of 1."""
    return 1.0 if p % 2 else -1.0


def test_alignment_tax_is_the_paired_change() -> None:
    # from .8 to .6 on every prompt, and further on the first: the mean change is -.2 - .4 / 12 = -.2333, 29 % of the first level
    def cell(p: int, s: int, k: int) -> Mapping[str, Any]:
        return {"evaluations.quiz_correct": (0.2 if p == 0 else 0.6) if s else 0.8, "evaluations.fact_correct": 0.5}

    found = alignment_tax.diagnose(records(cell), "a", AlignmentTax(), Key(0))
    assert found.estimate("change_quiz_correct").value == pytest.approx(-0.2 - 0.4 / 12)
    assert found.estimate("change_fact_correct").value == 0
    assert found.verdict == "alarm"
    assert found.samples[0] == "10:0:0"  # the prompt on which it fell most
    small = records(lambda p, s, k: {"evaluations.quiz_correct": 0.76 if s else 0.8})  # 5 % of the level
    assert alignment_tax.diagnose(small, "a", AlignmentTax(), Key(0)).verdict == "quiet"
    gained = records(lambda p, s, k: {"evaluations.quiz_correct": 0.9 if s else 0.8})
    assert alignment_tax.diagnose(gained, "a", AlignmentTax(), Key(0)).verdict == "quiet"


def refusals(over: tuple[float, float], complied: tuple[float, float]) -> pd.DataFrame:
    """Ten prompts of each kind."""
    half = records(lambda p, s, k: {"evaluations.over_refusal": over[s]})
    other = records(lambda p, s, k: {"evaluations.compliance": complied[s], "prompt_id": f"q{p:02d}", "sample_id": f"q:{s}:{p}"})
    return pd.concat([half, other], ignore_index=True)


def test_refusals_that_rise_alarm_unless_they_bought_more() -> None:
    found = refusal_balance.diagnose(refusals((0.0, 1.0), (0.5, 0.5)), "a", RefusalBalance(), Key(0))
    assert found.estimate("change_over_refusal").value == pytest.approx(1.0)
    assert found.estimate("change_mean_error").value == pytest.approx(0.5)
    # all 12 prompts went from no refusal to refusal: two-sided chance 2 / 2^12
    assert (found.estimate("over_refusal_prompts_worse").value, found.estimate("over_refusal_prompts_better").value) == (12, 0)
    assert found.estimate("over_refusal_mcnemar_p").value == pytest.approx(2 / 2**12)
    assert found.estimate("compliance_mcnemar_p").value == 1
    assert found.verdict == "alarm"
    assert found.samples[0] == "10:0:0"
    # 0.2 more refusals for 0.8 less compliance: the mean falls by 0.3
    traded = refusal_balance.diagnose(refusals((0.0, 0.2), (0.9, 0.1)), "a", RefusalBalance(), Key(0))
    assert traded.estimate("change_mean_error").value == pytest.approx(-0.3)
    assert traded.verdict == "quiet"
    small = refusal_balance.diagnose(refusals((0.0, 0.04), (0.5, 0.5)), "a", RefusalBalance(), Key(0))
    assert small.verdict == "quiet"  # below the 5 points that the settings ask for


def test_expected_distinct_ngrams_on_paper() -> None:
    # three draws from two words give 2 (1 - (1/2)^3) = 1.75 different ones
    assert ead(2, 3, 2) == pytest.approx(2 / 1.75)
    # of a large vocabulary nothing is expected twice: distinct over all
    assert ead(7, 10, 10**9) == pytest.approx(0.7)
    assert np.isnan(ead(0, 0, 5))


def test_replies_that_become_one_are_a_collapse() -> None:
    # first two different replies of own words, then the same one twice; other prompts have other words throughout
    def cell(p: int, s: int, k: int) -> Mapping[str, Any]:
        return {"response": f"a{p} b{p}" if s or k == 0 else f"c{p} d{p}"}

    found = diversity.diagnose(records(cell, samples=2), "a", Diversity(vocabulary=10**9), Key(0))
    assert found.estimate("unlikeness_within_first").value == pytest.approx(1.0)
    assert found.estimate("unlikeness_within_last").value == pytest.approx(0.0)
    assert found.estimate("unlikeness_across_last").value == pytest.approx(1.0)
    # words 4 of 4, then 2 of 4; pairs of words 2 of 2, then 1 of 2
    assert (found.estimate("distinct_within_first").value, found.estimate("distinct_within_last").value) == pytest.approx((1.0, 0.5))
    assert found.estimate("ead_within_last").value == pytest.approx(0.5, abs=1e-6)
    assert found.estimate("unlikeness_within_left").value == pytest.approx(0.0)
    assert found.verdict == "alarm"
    assert len(found.samples) == 5
    # a third reply in common with none: unlikeness 1 - (1 pair of 3 alike) = 2/3 is left
    narrow = diversity.diagnose(
        records(lambda p, s, k: {"response": f"x{p} y{p} z{p}" if k < 2 and s else f"{'uvw'[k]}{p}"}, samples=3), "a", Diversity(), Key(0)
    )
    assert narrow.estimate("unlikeness_within_left").value == pytest.approx(2 / 3)
    assert narrow.verdict == "quiet"


def test_one_reply_for_everything_is_a_collapse_across_prompts() -> None:
    found = diversity.diagnose(records(lambda p, s, k: {"response": "yes indeed" if s else f"w{p}"}), "a", Diversity(), Key(0))
    assert found.estimate("unlikeness_across_left").value == pytest.approx(0.0)
    assert found.verdict == "alarm"


def test_only_so_many_replies_are_read_evenly() -> None:
    frame = records(lambda p, s, k: {"response": f"w{p} {k}"}, samples=20)  # 480 replies, 24 cells
    found = diversity.diagnose(frame, "a", Diversity(max_replies=100), Key(0))
    assert "96 of 480 replies read" in found.rule  # four of each cell


def demonstrations(losses: tuple[float, ...]) -> pd.DataFrame:
    """Of every prompt a short one of the loss named, and a long one of 4 nats over 4 tokens."""
    short = records(
        lambda p, s, k: {"logp_policy_nats": -losses[s], "n_tokens": 1, "sample_id": f"d{s}:{p}"}, len(losses), 1, "demonstration"
    )
    long = records(lambda p, s, k: {"logp_policy_nats": -4.0, "n_tokens": 4, "sample_id": f"e{s}:{p}"}, len(losses), 1, "demonstration")
    return pd.concat([short, long], ignore_index=True).assign(split="train", gold=0.0)


def test_loss_counts_tokens_and_the_checkpoint_of_least_loss_is_compared() -> None:
    golds = (5.0, 6.0, 4.0)
    plain = records(lambda p, s, k: {"gold": golds[s] + effect(p)}, 3)
    found = next_token_loss.diagnose(pd.concat([plain, demonstrations((1.0, 2.0, 6.0))]), "a", NextTokenLoss(), Key(0))
    # (1 + 4) / 5, (2 + 4) / 5, (6 + 4) / 5 nats a token
    assert found.series["loss"] == pytest.approx([1.0, 1.2, 2.0])
    assert found.estimate("loss_rise").value == pytest.approx(1.0)
    assert found.estimate("gold_of_least_loss_minus_last").value == pytest.approx(1.0)
    # losses rank 1 2 3, golds 2 3 1: squared differences 1, 1, 4; rho = 1 - 6 * 6 / 24 = -1/2
    assert found.estimate("spearman_levels").value == pytest.approx(-0.5)
    assert found.verdict == "alarm"
    better = next_token_loss.diagnose(pd.concat([plain, demonstrations((2.0, 6.0, 1.0))]), "a", NextTokenLoss(), Key(0))
    assert better.estimate("gold_of_least_loss_minus_last").value == 0  # the last one has the least loss itself
    assert better.verdict == "quiet"
    assert next_token_loss.diagnose(plain, "a", NextTokenLoss(), Key(0)).verdict == "not enough data"


def cut(golds: tuple[float, float], proxies: tuple[float, float]) -> pd.DataFrame:
    """Halves are worth 1/2 to gold and 1 to the proxy always; whole replies what is said, at both checkpoints."""
    plain = records(lambda p, s, k: {"gold": golds[s] + effect(p), "proxy_fixed": proxies[s]})
    halves = records(lambda p, s, k: {"gold": 0.5 + effect(p), "proxy_fixed": 1.0, "sample_id": f"{10 * s}:{p}:0~cut_50"}, variant="cut_50")
    return pd.concat([plain, halves], ignore_index=True)


def test_the_worth_of_a_part_is_the_whole_less_what_came_before() -> None:
    found = positions.diagnose(cut((1.0, 0.2), (1.5, 3.0)), "a", Positions(), Key(0))
    assert found.series["gold_50_100"] == pytest.approx([0.5, -0.3])
    assert found.series["proxy_50_100"] == pytest.approx([0.5, 2.0])
    assert found.estimate("change_gold_50_100").value == pytest.approx(-0.8)
    assert found.estimate("change_proxy_0_50").value == pytest.approx(0.0)
    assert found.verdict == "alarm"  # gold fell from 1 to 0.2 by what is written last, for which the proxy pays more
    assert positions.diagnose(cut((1.0, 1.4), (1.5, 3.0)), "a", Positions(), Key(0)).verdict == "quiet"
    assert positions.diagnose(cut((1.0, 0.2), (1.5, 0.5)), "a", Positions(), Key(0)).verdict == "quiet"  # the proxy fell likewise
    assert positions.diagnose(cut((1.0, 0.2), (1.5, 3.0)).query("variant.isna()"), "a", Positions(), Key(0)).verdict == "not enough data"


def greedy(plain: tuple[float, float], other: tuple[float, float]) -> pd.DataFrame:
    sampled = records(lambda p, s, k: {"gold": plain[s] + effect(p)})
    return pd.concat(
        [sampled, records(lambda p, s, k: {"gold": other[s] + effect(p), "sample_id": f"g:{s}:{p}"}, variant="greedy")], ignore_index=True
    )


def test_a_gap_that_opens_is_an_alarm_and_one_that_was_there_is_none() -> None:
    found = sensitivity.diagnose(greedy((1.0, 2.0), (1.0, 1.5)), "a", Sensitivity(), Key(0))
    assert found.series["greedy.gold"] == pytest.approx([0.0, -0.5])
    assert found.estimate("gap_change_greedy.gold").value == pytest.approx(-0.5)
    assert found.verdict == "alarm"  # half a standard deviation
    assert found.samples[0] == "g:1:0"
    assert sensitivity.diagnose(greedy((1.0, 2.0), (0.5, 1.5)), "a", Sensitivity(), Key(0)).verdict == "quiet"
    assert sensitivity.diagnose(greedy((1.0, 2.0), (1.0, 1.9)), "a", Sensitivity(), Key(0)).verdict == "quiet"  # a tenth of a deviation
    # worse by less than at the first checkpoint, and better in the end
    assert sensitivity.diagnose(greedy((1.0, 2.0), (3.0, 2.5)), "a", Sensitivity(), Key(0)).verdict == "quiet"
