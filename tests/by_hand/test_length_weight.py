"""How much of a score length moves, by hand; a bias of a score that is nearly gold is sure and harmless."""

from __future__ import annotations

import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.reward_evaluation.length import Length, diagnose


@pytest.mark.parametrize(
    ("price", "slope", "fall", "verdict"),
    [(0.5, 0.5 / 1.25**0.5, 3.0, "alarm"), (0.05, 0.05 / 1.0025**0.5, 3.0, "quiet"), (0.5, 0.5 / 1.25**0.5, 0.0, "quiet")],
)
def test_a_sure_preference_must_also_move_the_score_and_do_harm(price: float, slope: float, fall: float, verdict: str) -> None:
    # length and gold are +-1 in all four ways for each prompt, so they are orthogonal. Score = gold + price x length has deviation
    # sqrt(1 + price^2), and its standardised coefficient on length at equal gold is price over that; nothing else moves it, so the
    # partial correlation is 1 for any price. By step 10 gold fell by 3 (a little more for every second prompt): without harm, no alarm.
    rows = [
        {
            "arm": "a", "split": "test", "step": step, "prompt_id": f"p{p:02d}", "sample_id": f"{step}:{p}:{k}", "response": "x",
            "n_tokens": 10 + length, "gold": gold - fall * (step > 0) * (1 + 0.1 * (p % 2)), "proxy_fixed": gold + price * length,
        }
        for step in (0, 10) for p in range(20) for k, (gold, length) in enumerate([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    ]  # fmt: skip
    found = diagnose(pd.DataFrame(rows), "a", Length(), Key(0))
    assert found.estimate("slope_given_gold").value == pytest.approx(slope)
    assert found.estimate("partial_correlation_given_gold").value == pytest.approx(1)
    assert found.verdict == verdict
