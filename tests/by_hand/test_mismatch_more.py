"""Diagnoses by hand: curves without noise, so that every number is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.decision import VerdictSettings, decide
from trueup.mismatch.panel import panel_of
from trueup.mismatch.policy_evaluation import tracking
from trueup.mismatch.policy_evaluation.tracking import Tracking
from trueup.mismatch.reward_policy import over_optimisation
from trueup.mismatch.reward_policy.over_optimisation import OverOptimisation

PROMPTS = [f"p{i:02d}" for i in range(12)]


def records(gold: Mapping[str, Sequence[float]], proxy: Sequence[float], split: str = "test") -> pd.DataFrame:
    """One reply a prompt and checkpoint (steps 0, 10, 20 …): gold by prompt, the same proxy for all."""
    rows = [
        {
            "arm": "a",
            "split": split,
            "step": 10 * s,
            "prompt_id": p,
            "sample_id": f"{split}:{s}:{p}",
            "response": "words",
            "proxy_fixed": proxy[s],
            "gold": curve[s],
        }
        for p, curve in gold.items()
        for s in range(len(proxy))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("kind", "expected"), [("pearson", 58 / np.sqrt(5 * 1085)), ("spearman", 0.8), ("kendall", 2 / 3)])
def test_the_correlation_that_was_asked_for(kind: str, expected: float) -> None:
    # proxy 1 2 3 4, gold 1 3 2 40. Pearson: deviations -1.5 -.5 .5 1.5 and -10.5 -8.5 -9.5 28.5, sums of products 58, 5 and 1085;
    # ranks 1 3 2 4: one of six pairs discordant, tau = 4/6; squared rank differences 2, rho = 1 - 12/60
    frame = records({p: [1, 3, 2, 40] for p in PROMPTS}, [1, 2, 3, 4])
    found = tracking.diagnose(frame, "a", Tracking(correlation=kind), Key(0))  # type: ignore[arg-type]
    assert found.estimate(f"{kind}_levels_gold").value == pytest.approx(expected, abs=1e-9)
    # first differences of the proxy do not vary
    assert found.estimate(f"{kind}_differences_gold").value is None


def test_the_peak_is_judged_on_the_half_that_did_not_choose_it() -> None:
    key = Key(4)
    panel = panel_of(records({p: [0, 0, 0] for p in PROMPTS}, [0, 1, 2]), "a")
    assert panel is not None
    one, other = panel.halves(key / "halves")
    assert one.sum() == other.sum() == 6
    assert not (one & other).any()
    # the first half peaks at step 10 (gold 2) and falls to 0; the second rises at step 20 only (gold 1)
    gold = {p: [0, 2, 0] if one[i] else [0, 0, 1] for i, p in enumerate(panel.prompts)}
    found = over_optimisation.diagnose(records(gold, [0, 1, 3]), "a", OverOptimisation(), key)
    # the first half at the other's peak, step 20: gain 0, drop 0, proxy 0; the second at step 10: gain 0, drop 0 - 1, proxy 3 - 1
    assert found.estimate("gain").value == pytest.approx(0.0)
    assert found.estimate("drop").value == pytest.approx(-0.5)
    assert found.estimate("proxy_rise_after_peak").value == pytest.approx(1.0)
    assert found.estimate("peak_step").value == 10  # means over all prompts: 0, 1, 1/2
    assert found.verdict == "quiet"


def test_a_certain_fall_alarms_and_a_small_one_does_not() -> None:
    fall = over_optimisation.diagnose(records({p: [0, 2, 1.8] for p in PROMPTS}, [0, 1, 2]), "a", OverOptimisation(), Key(0))
    assert (fall.estimate("gain").value, fall.estimate("drop").value) == pytest.approx((2.0, 0.2))
    assert fall.estimate("drop_share").value == pytest.approx(0.1)
    assert fall.verdict == "alarm"
    small = over_optimisation.diagnose(records({p: [0, 2, 1.92] for p in PROMPTS}, [0, 1, 2]), "a", OverOptimisation(), Key(0))
    assert small.verdict == "quiet"  # 4 % of the gain, below the 5 % that the settings ask for
    both = over_optimisation.diagnose(records({p: [0, 2, 1] for p in PROMPTS}, [0, 2, 1]), "a", OverOptimisation(), Key(0))
    assert both.verdict == "quiet"  # the proxy fell likewise


def test_chosen_checkpoints_are_worth_what_the_other_half_says() -> None:
    key = Key(4)
    panel = panel_of(records({p: [0, 0, 0] for p in PROMPTS}, [0, 1, 2]), "a")
    assert panel is not None
    choosing, _ = panel.halves(key / "halves")
    # One half peaks at step 10 (gold 2, then 0), the other at step 20 (gold 1, then 1.5); over all prompts step 10 gained 1.5 and step
    # 20 0.75. At step 10, which the first half chooses, the other gained 1 and lies 0.5 below its last; at step 20, which the other
    # chooses, the first half gained 0 and lies 0 above its last: on average 0.5 and -0.25.
    gold = {p: [0, 2, 0] if choosing[i] else [0, 1, 1.5] for i, p in enumerate(panel.prompts)}
    found = decide(records(gold, [0, 1, 2]), "a", [], VerdictSettings(), Tracking(), key)
    assert (found.keep_step, found.basis, found.stop) == (10, "gold", False)
    assert [(e.name, e.value) for e in found.evidence] == [("gain_of_kept", 0.5), ("loss_after_kept", -0.25)]
    # where no later checkpoint gained, the first one is kept
    worse = decide(records({p: [0, -1, -0.5] for p in PROMPTS}, [0, 1, 2]), "a", [], VerdictSettings(), Tracking(), key)
    assert (worse.keep_step, worse.stop) == (0, True)


def test_only_test_rows_of_the_arm_count() -> None:
    frame = records({p: [0, 1, 2] for p in PROMPTS}, [0, 1, 2])
    others = [records({p: [50, 60, 70] for p in PROMPTS}, [9, 9, 9], "train"), frame.assign(arm="b", gold=-5.0)]
    panel = panel_of(pd.concat([*others, frame]), "a")
    assert panel is not None
    cells = panel.column_cells("gold")
    assert cells is not None
    assert cells.mean().tolist() == [0, 1, 2]
    assert len(panel.rows) == 36
