"""The calibration diagnosis reads what a calibrated reward model claims of the offline pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.reward_policy.calibration import Calibration, diagnose


def records(claim: float | None, pairs: int = 60) -> pd.DataFrame:
    """One arm of two samples a prompt, and labelled offline pairs of which the higher score always won."""
    rows = []
    for i in range(pairs):
        names = [f"{i}a", f"{i}b"]
        for side, score in enumerate((1.0 + i / pairs, 0.0)):
            common = {"prompt_id": f"p{i}", "scores.rm-0": score, "proxy_fixed": score, "proxy_current": score, "gold": score}
            label = [{"annotator": "x", "other_sample_id": names[1 - side], "preference": float(side == 0)}]
            own = {"arm": "offline", "step": None, "split": "validation", "sample_id": names[side], "labels": label}
            if claim is not None:
                own["win_probability.rm-0"] = claim if side == 0 else 1 - claim
            rows.append({**common, **own})
            rows.append({**common, "arm": "a", "step": 0, "split": "test", "sample_id": f"s{i}{side}", "labels": []})
    return pd.DataFrame(rows)


def claimed(claim: float | None) -> list[float | None]:
    found = diagnose(records(claim), "a", Calibration(min_pairs=10, draws=100, band_draws=100, truth="gold"), Key(0))
    return [e.value for e in found.estimates if e.name == "ece_claimed_offline"]


@pytest.mark.parametrize("claim", [0.5, 0.8, 0.95])
def test_the_error_of_a_constant_claim(claim: float) -> None:
    # every pair is won, so a chance of c is 1 - c too low, in both orders
    assert claimed(claim) == [pytest.approx(0.0 if claim == 0.5 else 1 - claim, abs=1e-6)]


def test_without_claims_there_is_nothing_to_judge() -> None:
    assert claimed(None) == []
    assert np.isfinite([v for v in claimed(0.8) if v is not None]).all()
