"""Decisions and comparisons: what they rest on, and what they say when there is little."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from tests.planted.worlds import Plant, frame
from trueup.core.rng import Key
from trueup.mismatch.decision import decide
from trueup.mismatch.policy_evaluation.tracking import Tracking, diagnose
from trueup.mismatch.reward_policy import over_optimisation, realignment
from trueup.mismatch.reward_policy.over_optimisation import OverOptimisation
from trueup.mismatch.reward_policy.realignment import Realignment
from trueup.mismatch.verdict import MismatchSettings, diagnose_all

PEAKED = Plant(prompts=80, checkpoints=7, gold_drop=0.8)
S = MismatchSettings()


def test_evaluations_decide_where_gold_is_unknown() -> None:
    # task_correct falls from the start: the first checkpoint is the best
    records = frame(Plant(prompts=80, checkpoints=5, flips=0.5), 0).drop(columns="gold")
    decision = decide(records, "static", [], S.verdict, S.tracking, Key(0))
    assert (decision.basis, decision.keep_step, decision.stop) == ("evaluations", 0, True)


def test_the_proxy_alone_never_decides() -> None:
    records = frame(PEAKED, 0).drop(columns=["gold", "evaluations.task_correct"])
    decision = decide(records, "static", [], S.verdict, S.tracking, Key(0))
    assert (decision.basis, decision.keep_step, decision.stop) == ("nothing but the proxy", 0, False)
    assert "proxy alone never decides" in decision.why


def test_labels_decide_where_nothing_else_is_known() -> None:
    # every reply of step 10 beat the first checkpoint's, every one of step 20 lost to it
    prompts = [f"p{i:02d}" for i in range(20)]
    table = pd.DataFrame(
        [
            {"arm": "x", "step": s, "split": "test", "prompt_id": q, "sample_id": f"{s}:{q}", "response": "", "labels": []}
            for s in (0, 10, 20)
            for q in prompts
        ]
    )
    won = {10: 1.0, 20: 0.0}
    table["labels"] = [
        [] if s == 0 else [{"annotator": "a", "other_sample_id": f"0:{q}", "preference": won[s]}]
        for s, q in zip(table["step"], table["prompt_id"], strict=True)
    ]
    decision = decide(table, "x", [], S.verdict, S.tracking, Key(0))
    assert (decision.basis, decision.keep_step, decision.stop) == ("labels", 10, True)
    assert decision.evidence[0].value == 0.5  # 1 against 1/2


def test_an_unknown_arm_keeps_nothing() -> None:
    decision = decide(frame(PEAKED, 0), "nobody", [], S.verdict, S.tracking, Key(0))
    assert (decision.keep_step, decision.stop) == (None, False)


def test_alarms_are_named_and_over_optimisation_stops() -> None:
    found, decisions = diagnose_all(frame(PEAKED, 0), ["static"], Key(0))
    assert decisions["static"].stop
    assert "over_optimisation" in decisions["static"].why
    assert next(d for d in found if d.name == "over_optimisation").samples


def test_over_optimisation_measures_what_was_planted() -> None:
    # gold rises by 1 to the middle and falls by .8: the share of the gain is .8; proxy rises by 1 in the second half
    planted = {"gain": 1.0, "drop": 0.8, "drop_share": 0.8, "proxy_rise_after_peak": 1.0}
    covered = dict.fromkeys(planted, 0)
    for seed in range(40):
        d = over_optimisation.diagnose(frame(PEAKED, seed), "static", OverOptimisation(draws=300), Key(seed))
        for name, value in planted.items():
            covered[name] += not d.estimate(name).excludes(value)
        top = d.estimate("peak_sqrt_kl_bon")
        assert top.value is not None
        assert 2.0 < top.value < 3.5  # the planted peak lies at 2.5, the law is not its shape
    # nominal 38 of 40; standard error 1.4
    assert all(n >= 34 for n in covered.values()), covered


def test_gao_fit_recovers_its_own_law() -> None:
    # gold of every reply exactly alpha d - beta d^2 plus its prompt's effect: d = 0, 1, 2, 3, 4
    d = np.arange(5.0)
    prompts = [f"p{i:02d}" for i in range(12)]
    effect = dict(zip(prompts, Key(0).generator().normal(size=12), strict=True))
    table = pd.DataFrame(
        [
            {"arm": "x", "step": int(k), "split": "test", "prompt_id": q, "sample_id": f"{k}:{q}", "response": "a"}
            | {"gold": effect[q] + 1.0 * k - 0.2 * k**2, "proxy_fixed": effect[q] + k, "kl_policy_ref_exact_nats": k**2}
            for k in d
            for q in prompts
        ]
    )
    found = over_optimisation.diagnose(table, "x", OverOptimisation(), Key(0))
    assert found.estimate("alpha_bon").value == pytest.approx(1.0, abs=1e-9)
    assert found.estimate("beta_bon").value == pytest.approx(0.2, abs=1e-9)
    assert found.estimate("peak_sqrt_kl_bon").value == pytest.approx(2.5, abs=1e-9)
    # both halves see the peak between 2 and 3, equal there: the first, d = 2, with gain 1.2; the last has 4 - 3.2 = .8
    assert found.estimate("drop").value == pytest.approx(0.4, abs=1e-9)
    assert found.estimate("drop_share").value == pytest.approx(1 / 3, abs=1e-9)
    assert found.verdict == "alarm"
    assert found.series["gold_fit_bon"][0] is None
    assert found.series["sqrt_kl"] == pytest.approx([0, 1, 2, 3, 4])


def test_no_fit_without_kl() -> None:
    found = over_optimisation.diagnose(frame(PEAKED, 0).drop(columns="kl_policy_ref_exact_nats"), "static", OverOptimisation(), Key(0))
    assert found.verdict == "alarm"
    assert "alpha_bon" not in {e.name for e in found.estimates}
    assert found.series["gold_fit_rl"] == [None] * 7


def test_tracking_judges_only_what_has_a_better_side() -> None:
    records = frame(Plant(prompts=80, checkpoints=6), 0)  # 'unheard_of' falls by three standard deviations
    quiet = diagnose(records, "static", Tracking(), Key(0))
    assert quiet.verdict == "quiet"
    assert quiet.estimate("spearman_levels_unheard_of").value == pytest.approx(-1)
    told = diagnose(records.drop(columns="gold"), "static", Tracking(higher_is_better=("unheard_of",)), Key(0))
    assert told.verdict == "alarm"
    shown = diagnose(records, "static", Tracking(higher_is_better=("unheard_of",)), Key(0))
    assert shown.verdict == "quiet"  # gold rose all the while
    assert shown.estimate("first_divergence_step").value == told.estimate("first_divergence_step").value
    assert told.estimate("first_divergence_step").value is not None
    good = diagnose(records, "static", Tracking(lower_is_better=("unheard_of",)), Key(0))
    assert good.verdict == "quiet"
    nobody = diagnose(records.drop(columns=["gold", "evaluations.task_correct"]), "static", Tracking(), Key(0))
    assert nobody.verdict == "not enough data"


def two_arms(**columns: list) -> pd.DataFrame:
    """Arms x and y, steps 0 1 2, twelve prompts; gold of x is above y's by the step; KL twice as fast in x."""
    prompts = [f"p{i:02d}" for i in range(12)]
    return pd.DataFrame(
        [
            {"arm": arm, "step": s, "split": "test", "prompt_id": q, "sample_id": f"{arm}:{s}:{q}", "response": "a"}
            | {"gold": i + s * (2.0 if arm == "x" else 1.0), "proxy_fixed": i, "proxy_current": i + (arm == "x" and s == 2)}
            | {"kl_policy_ref_exact_nats": s * (2.0 if arm == "x" else 1.0)}
            for arm in ("x", "y")
            for s in range(3)
            for i, q in enumerate(prompts)
        ]
    )


def test_realignment_by_hand() -> None:
    # differences by step: 0, 1, 2. Refit seen at step 2 (its first checkpoint under the new model); none after it, so all steps after
    # the first count: mean 1.5. At equal KL gold is KL in both arms: no difference
    d = realignment.compare(two_arms(), "x", "y", Realignment(), Key(0))
    assert d.estimate("gold_at_last").value == pytest.approx(2)
    assert d.estimate("gold_after_refit").value == pytest.approx(1.5)
    assert d.estimate("gold_at_equal_kl").value == pytest.approx(0, abs=1e-12)
    assert d.verdict == "quiet"
    assert "better than y" in d.rule.lower()
    assert d.series["difference"] == pytest.approx([0, 1, 2])
    assert realignment.compare(two_arms(), "y", "x", Realignment(), Key(0)).verdict == "alarm"
    equal = realignment.compare(two_arms(), "x", "y", Realignment(decides="gold_at_equal_kl"), Key(0))
    assert equal.verdict == "no difference shown"
    later = realignment.compare(two_arms(), "x", "y", Realignment(first_refit_step=1), Key(0))
    assert later.estimate("gold_after_refit").value == pytest.approx(2)


def test_realignment_needs_both_arms_and_gold() -> None:
    assert realignment.compare(two_arms(), "x", "z", Realignment(), Key(0)).verdict == "not enough data"
    assert realignment.compare(two_arms().drop(columns="gold"), "x", "y", Realignment(), Key(0)).verdict == "not enough data"


def test_a_whole_run_takes_seconds() -> None:
    big = Plant(prompts=100, samples=2, checkpoints=10)
    records = pd.concat([frame(big, 1, a) for a in ("static", "random", "frft")]).drop_duplicates("sample_id")
    start = time.process_time()
    diagnose_all(records, ["static", "random", "frft"], Key(0))
    assert time.process_time() - start < 5  # about one on an idle core
