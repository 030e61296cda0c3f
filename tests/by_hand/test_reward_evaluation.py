"""Diagnoses of reward model and evaluation by hand: replies without noise, so that every number is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from by_hand.replies import Cell, replies
from trueup.core.rng import Key
from trueup.mismatch.panel import panel_of
from trueup.mismatch.reward_evaluation import ceiling_use, consistency, implicit_reward, rank_transfer, style
from trueup.mismatch.reward_evaluation.ceiling_use import CeilingUse
from trueup.mismatch.reward_evaluation.consistency import Consistency
from trueup.mismatch.reward_evaluation.implicit_reward import ImplicitReward
from trueup.mismatch.reward_evaluation.rank_transfer import RankTransfer, Transferred, compare, transferred
from trueup.mismatch.reward_evaluation.style import Style
from trueup.mismatch.variants import twins, variant_names, variant_panel

PROMPTS = 24


def records(cell: Cell, steps: int = 2, samples: int = 3, variant: str | None = None) -> pd.DataFrame:
    """As `replies`, for the prompts of this file."""
    return replies(cell, PROMPTS, steps, samples, variant)


def test_twins_are_found_by_name_and_share_the_plain_prompts_and_steps() -> None:
    plain = records(lambda p, s, k: {"proxy_fixed": 100.0 * p + 10 * s + k})
    cut = records(lambda p, s, k: {"proxy_fixed": -1.0 * k, "sample_id": f"{10 * s}:{p}:{k}~cut_50"}, variant="cut_50")
    frame = pd.concat([plain, cut.iloc[::-1][:-5]], ignore_index=True)  # another order, five missing: of prompt 0
    panel = panel_of(frame, "a")
    assert panel is not None
    assert len(panel.rows) == PROMPTS * 6
    assert variant_names(frame, "a") == ["cut_50"]
    other = variant_panel(panel, frame, "cut_50")
    assert other is not None
    pair = twins(panel, other)
    assert pair is not None
    assert len(pair.of_plain) == PROMPTS * 6 - 5
    values = pair.values("proxy_fixed")
    assert values is not None
    assert (values[0] % 10).tolist() == (-values[1]).tolist()  # the same sample
    assert pair.panel().prompt.tolist() == other.prompt[pair.of_other].tolist()
    assert variant_panel(panel, frame, "cut_25") is None


def reworded(order: Sequence[float], gold: Sequence[float] = (1.0, 2.0, 3.0)) -> pd.DataFrame:
    plain = records(lambda p, s, k: {"proxy_fixed": k + 1.0, "gold": k + 1.0})
    other = records(
        lambda p, s, k: {"proxy_fixed": order[k], "gold": gold[k], "sample_id": f"{10 * s}:{p}:{k}~reworded_x"}, variant="reworded_x"
    )
    return pd.concat([plain, other], ignore_index=True)


def test_consistency_is_kendalls_tau_within_prompts() -> None:
    # 1 2 3 against 2 3 1: one of three pairs agrees, (1 - 2) / 3
    found = consistency.diagnose(reworded((2.0, 3.0, 1.0)), "a", Consistency(), Key(0))
    assert found.estimate("proxy_reworded_x").value == pytest.approx(-1 / 3)
    assert found.estimate("gold_reworded_x").value == pytest.approx(1.0)
    assert found.verdict == "alarm"
    assert found.samples[0] == "10:0:2"  # from the third place to the first
    # 1 3 2: two of three agree, (2 - 1) / 3, still below one half
    assert consistency.diagnose(reworded((1.0, 3.0, 2.0)), "a", Consistency(), Key(0)).verdict == "alarm"
    assert consistency.diagnose(reworded((5.0, 6.0, 9.0)), "a", Consistency(), Key(0)).verdict == "quiet"
    # the words changed what the replies are worth: gold turned round likewise
    turned = consistency.diagnose(reworded((2.0, 3.0, 1.0), (2.0, 3.0, 1.0)), "a", Consistency(), Key(0))
    assert turned.verdict == "quiet"


def optimised(proxy: Sequence[float], gold: Sequence[float], fall: float) -> pd.DataFrame:
    """The last checkpoint's log-ratio is 0, 1, 2 in each prompt; gold falls everywhere by ``fall``."""
    return records(
        lambda p, s, k: {
            "proxy_fixed": proxy[k],
            "gold": gold[k] - fall * s,
            "logp_ref_nats": -5.0,
            "logp_policy_nats": -5.0 + (k if s else 1e-6 * k),
        }
    )


def test_implicit_reward_orders_pairs_and_has_a_slope() -> None:
    found = implicit_reward.diagnose(optimised((0.0, 0.5, 1.0), (2.0, 1.0, 0.0), 1.0), "a", ImplicitReward(), Key(0))
    assert found.estimate("with_proxy").value == 1
    assert found.estimate("with_truth").value == 0
    # the proxy rises by one half a nat, exactly
    assert found.estimate("implied_beta").value == pytest.approx(0.5)
    assert found.estimate("explained").value == pytest.approx(1.0)
    assert found.series["with_proxy"] == [0.5, 1.0]  # rounding errors of the first checkpoint are ties
    assert found.verdict == "alarm"
    assert found.samples[0] == "10:0:2"
    assert implicit_reward.diagnose(optimised((0.0, 0.5, 1.0), (2.0, 1.0, 0.0), 0.0), "a", ImplicitReward(), Key(0)).verdict == "quiet"
    # gold 0, 2, 1: of three pairs the log-ratio orders two rightly
    better = implicit_reward.diagnose(optimised((0.0, 0.5, 1.0), (0.0, 2.0, 1.0), 1.0), "a", ImplicitReward(), Key(0))
    assert better.estimate("with_truth").value == pytest.approx(2 / 3)
    assert better.verdict == "quiet"


def test_implicit_reward_of_held_out_pairs_stands_beside_the_explicit_one() -> None:
    plain = optimised((0.0, 0.5, 1.0), (2.0, 1.0, 0.0), 1.0)

    def held_out(p: int, s: int, k: int) -> Mapping[str, Any]:
        label = {"annotator": "x", "other_sample_id": f"{s}:pair:{p}:{1 - k}", "preference": 1.0 - k}
        # the first is preferred; the log-ratio agrees in 18 of 24 prompts at the last checkpoint, the proxy in 12
        ratio = (1.0 - k) * (1 if p < 18 else -1) * s
        return {
            "sample_id": f"{s}:pair:{p}:{k}", "split": "validation", "labels": [label], "logp_ref_nats": -3.0,
            "logp_policy_nats": -3.0 + ratio, "proxy_fixed": (1.0 - k) * (1 if p < 12 else -1),
        }  # fmt: skip

    frame = pd.concat([plain.assign(labels=None), records(held_out, samples=2, variant="pair")], ignore_index=True)
    found = implicit_reward.diagnose(frame, "a", ImplicitReward(), Key(0))
    assert found.series["held_out"] == [0.5, 0.75]
    assert found.estimate("held_out_explicit").value == pytest.approx(0.5)
    assert found.estimate("held_out_difference").value == pytest.approx(0.25)


def labelled(score: Callable[[int], float], unanimous: int = 15) -> pd.DataFrame:
    """Twenty pairs that two annotators judged: they agree on the first ``unanimous``, and split the others."""
    rows = []
    for i in range(20):
        for k in range(2):
            votes = [1.0 - k, (1.0 - k) if i < unanimous else float(k)]
            labels = [{"annotator": f"x{j}", "other_sample_id": f"{i}:{1 - k}", "preference": v} for j, v in enumerate(votes)]
            rows.append(
                {
                    "arm": "offline", "split": "validation", "step": np.nan, "prompt_id": f"o{i:02d}", "sample_id": f"{i}:{k}",
                    "response": "words", "proxy_fixed": (1 - k) * score(i), "labels": labels, "variant": None,
                }
            )  # fmt: skip
    return pd.concat([records(lambda p, s, k: {"proxy_fixed": float(k)}), pd.DataFrame(rows)], ignore_index=True)


def test_ceiling_of_agreement_and_what_is_reached() -> None:
    found = ceiling_use.diagnose(labelled(lambda i: 1.0 if i < 15 else -1.0), "a", CeilingUse(), Key(0))
    # two votes of a pair multiply to 1 where they agree and to -1 where not: E d^2 = (15 - 5) / 20 = 1/2
    assert found.estimate("ceiling_low").value == pytest.approx(0.75)
    assert found.estimate("ceiling_high").value == pytest.approx((1 + np.sqrt(0.5)) / 2)
    # right on every vote of 15 pairs and on one of two votes of 5
    assert found.estimate("accuracy_one_label").value == pytest.approx((15 + 2.5) / 20)
    assert found.estimate("attainable_share_high").value == pytest.approx(0.375 / 0.25)
    # of 20 pairs, 15 (first, first) and 5 (first, second): coincidences n = 40, disagreeing 2 * 5; first 35, second 5.
    # 1 - (40 - 1) * 10 / (2 * 35 * 5) = 1 - 390 / 350
    assert found.estimate("krippendorff_alpha").value == pytest.approx(1 - 390 / 350)
    reverse = ceiling_use.diagnose(labelled(lambda i: -1.0), "a", CeilingUse(), Key(0))
    assert reverse.estimate("accuracy_one_label").value == pytest.approx(2.5 / 20)
    assert reverse.verdict == "alarm"


def test_without_several_annotators_the_agreement_must_be_stated() -> None:
    frame = labelled(lambda i: 1.0)
    frame["labels"] = [found[:1] if isinstance(found, list) else None for found in frame["labels"]]
    assert ceiling_use.diagnose(frame, "a", CeilingUse(), Key(0)).verdict == "not enough data"
    found = ceiling_use.diagnose(frame, "a", CeilingUse(agreement=0.75), Key(0))
    assert found.estimate("accuracy_one_label").value == 1
    assert found.estimate("ceiling_low").value == 0.75
    assert found.verdict == "alarm"  # better than 85 % on every pair: more than such labels allow


def wordy(p: int, s: int, k: int, price: float = 2.0, worth: float = 0.0, fall: float = 0.0) -> Mapping[str, Any]:
    """Four replies of 1, 2, 1, 2 words (one more at the last checkpoint), of which the last two are better by one."""
    words, good = 1 + k % 2, float(k > 1)
    gold = good + worth * words
    return {"response": " ".join(["word"] * (words + s)), "gold": gold - fall * s, "proxy_fixed": price * words + gold}


def test_style_is_paid_at_equal_truth_and_its_growth_is_counted() -> None:
    found = style.diagnose(records(wordy, samples=4), "a", Style(), Key(0))
    # words deviate by 1/2, the proxy by sqrt(1 + 1/4): 2 * .5 / 1.118 a deviation; gold knows nothing of them
    assert found.estimate("pays_words").value == pytest.approx(1 / np.sqrt(1.25), abs=1e-4)
    assert found.estimate("worth_words").value == pytest.approx(0.0, abs=1e-9)
    # one word more, in deviations of one half
    assert found.estimate("growth_words").value == pytest.approx(2.0)
    assert found.series["feature"] == ["words", "repetition"]  # repeated pairs of words come with them
    assert found.verdict == "quiet"


def test_a_style_that_costs_gold_and_was_taken_up_alarms_where_harm_is_shown() -> None:
    # gold loses one half for a word, the proxy pays 2 for it all the same
    costly = records(lambda p, s, k: wordy(p, s, k, worth=-0.5, fall=0.5), samples=4)
    found = style.diagnose(costly, "a", Style(), Key(0))
    # gold deviates by sqrt(.25 + .0625); a word of one half deviation costs .25 of it
    assert found.estimate("worth_words").value == pytest.approx(-0.25 / np.sqrt(0.3125), abs=1e-4)
    assert found.verdict == "alarm"
    assert "words" in found.rule
    harmless = records(lambda p, s, k: wordy(p, s, k, worth=-0.5), samples=4)
    assert style.diagnose(harmless, "a", Style(), Key(0)).verdict == "quiet"


def rows(outcomes: Sequence[float]) -> list[Transferred]:
    return [Transferred(name=f"r{i}", measures={"offline_accuracy": 0.6 + i / 50}, outcome=o) for i, o in enumerate(outcomes)]


def test_rank_transfer_is_kendalls_tau_over_runs() -> None:
    # 1 2 3 4 5 6 against 1 3 2 4 5 6: one of 15 pairs is discordant, 13/15
    found = compare(rows([1, 3, 2, 4, 5, 6]), RankTransfer(), Key(0))
    assert found.estimate("tau_offline_accuracy").value == pytest.approx(13 / 15)
    assert found.estimate("tau_offline_accuracy").n == 6
    assert compare(rows([1, 2, 3, 4, 5, 6, 7, 8]), RankTransfer(), Key(0)).verdict == "quiet"
    assert compare(rows([8, 7, 6, 5, 4, 3, 2, 1]), RankTransfer(), Key(0)).verdict == "alarm"
    assert compare(rows([1, 5, 3, 2, 6, 4]), RankTransfer(), Key(0)).verdict == "no difference shown"
    assert compare(rows([1, 2, 3, 4]), RankTransfer(), Key(0)).verdict == "not enough data"
    alike = [replace(r, measures={"offline_accuracy": 0.7}) for r in rows([1, 2, 3, 4, 5])]
    assert "share one reward model" in compare(alike, RankTransfer(), Key(0)).rule


def test_what_is_measured_of_a_reward_model() -> None:
    # proxies 0 1 2 and golds 0 2 1 in every prompt: two of three pairs right; prompts do not differ, so all spread is within them
    frame = records(lambda p, s, k: {"proxy_fixed": float(k), "gold": (0.0, 2.0, 1.0)[k] + 3.0 * s, "disagreement": 0.5})
    frame = pd.concat([frame, labelled(lambda i: 1.0 if i < 10 else -1.0, 20).query("arm == 'offline'")], ignore_index=True)
    found = transferred(frame, "a", "run")
    assert found is not None
    assert found.outcome == pytest.approx(3.0)
    # deviation of 0 1 2 is sqrt(2/3)
    assert found.measures == pytest.approx(
        {"offline_accuracy": 0.5, "own_accuracy": 2 / 3, "own_tau": 1 / 3, "spread": 1.0, "disagreement": 0.5 / np.sqrt(2 / 3)}
    )
    assert transferred(frame.drop(columns="gold"), "a", "run") is None
    assert rank_transfer.across_arms(frame, ["a"], RankTransfer(), Key(0)).verdict == "not enough data"
