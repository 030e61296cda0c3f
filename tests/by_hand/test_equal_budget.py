"""Methods at equal KL and cost, on paths small enough to do by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.policy_evaluation.equal_budget import COST, KL, at_budget, at_budgets, paths_of

KEY = Key(1)


def rows(arm: str, points: list[tuple[float, list[float]]], **more: Any) -> list[dict[str, Any]]:
    """One reply a prompt at each (KL, gold of each prompt)."""
    return [
        {"arm": arm, "split": "test", "step": s, "prompt_id": f"p{i}", "sample_id": f"{arm}:{s}:{i}", "gold": g,
         "kl_policy_ref_exact_nats": kl, **more}
        for s, (kl, golds) in enumerate(points)
        for i, g in enumerate(golds)
    ]  # fmt: skip


def test_values_where_a_budget_is_first_reached() -> None:
    x = np.array([[0.0, 2.0, 4.0, 3.0, 6.0]])
    y = np.array([[1.0, 2.0, 3.0, 9.0, 5.0]])
    # on straight lines: at 1 half way from 1 to 2; at 3 half way from 2 to 3, on the way up and not where it comes back; at 6 the end
    for budget, value in ((0.0, 1.0), (1.0, 1.5), (2.0, 2.0), (3.0, 2.5), (6.0, 5.0)):
        assert at_budget(x, y, budget).tolist() == [value]
    # from 3 to 6 the line rises again: at 4.5, first reached between the last two points, half of 9 and half of 5
    assert at_budget(x, y, 4.5).tolist() == [7.0]
    assert np.isnan(at_budget(x, y, 6.1)).all()
    assert at_budget(x, y, 6.1, keeps=True).tolist() == [5.0]
    assert np.isnan(at_budget(x + 1, y, 0.5, keeps=True)).all()  # begins beyond
    assert np.isnan(at_budget(np.full((1, 2), np.nan), y[:, :2], 1.0, keeps=True)).all()


def test_methods_are_paired_by_prompt() -> None:
    first = rows("first", [(0.0, [0, 10, 20]), (2.0, [4, 14, 24])])
    other = rows("other", [(0.0, [1, 11, 21]), (4.0, [9, 19, 29])])
    frame = pd.DataFrame(first + other + [{**other[0], "prompt_id": "alone", "sample_id": "x", "gold": 1000.0}])
    paths = paths_of(frame, ["first", "other"], {"first": [0.0, 1.0]})
    found = {(c.arm, c.axis, c.budget): c for c in at_budgets(paths, {KL: [1.0, 3.0], COST: [0.25, 5.0]}, "first", KEY)}
    # at 1 nat: half of the first path, 10 + 2; a quarter of the other, 11 + 2. Every prompt says 1 more, so resampling moves nothing
    assert found["first", KL, 1.0].value.value == pytest.approx(12.0)
    assert found["other", KL, 1.0].value.value == pytest.approx(13.0)
    gap = found["other", KL, 1.0].difference
    assert gap is not None
    assert (gap.value, gap.low, gap.high) == pytest.approx((1.0, 1.0, 1.0))
    assert gap.n == 3
    low, high = found["other", KL, 1.0].value.low, found["other", KL, 1.0].value.high
    assert low is not None
    assert high is not None
    assert high - low > 5  # the prompts themselves differ by 10
    # 3 nats: the first path does not get there
    assert found["first", KL, 3.0].value.value is None
    assert found["other", KL, 3.0].difference.value is None  # type: ignore[union-attr]
    # a quarter of its cost: 10 + 4 / 4; the whole and more: its last value. Nobody measured the other
    assert found["first", COST, 0.25].value.value == pytest.approx(11.0)
    assert found["first", COST, 5.0].value.value == pytest.approx(14.0)
    assert found["other", COST, 5.0].value.value is None


def test_what_is_known_of_kl_by_a_bound_only() -> None:
    bound = rows("best", [(np.nan, [1, 2]), (np.nan, [3, 4])])
    for row in bound:
        row["kl_bound_nats"] = float(row["step"])
    (path,) = paths_of(pd.DataFrame(bound), ["best"], {})
    assert path.kl_is_bound
    assert path.kl is not None
    assert path.kl.mean().tolist() == [0.0, 1.0]


def test_evaluations_are_compared_where_all_have_them() -> None:
    first = rows("first", [(0.0, [0, 0]), (1.0, [1, 1])], **{"evaluations.words": 3.0, "evaluations.own": 1.0})
    other = rows("other", [(0.0, [0, 0]), (1.0, [1, 1])], **{"evaluations.words": 4.0})
    frame = pd.DataFrame(first + other)
    found = at_budgets(paths_of(frame, ["first", "other"], {}), {KL: [1.0]}, "first", KEY)
    assert {c.column for c in found} == {"gold", "words"}
    words = next(c for c in found if c.arm == "other" and c.column == "words")
    assert words.difference is not None
    assert words.difference.value == pytest.approx(1.0)


def test_a_method_without_rows_or_with_other_points_is_refused() -> None:
    frame = pd.DataFrame(rows("first", [(0.0, [0.0]), (1.0, [1.0])]))
    with pytest.raises(ValueError, match="no test rows"):
        paths_of(frame, ["first", "absent"], {})
    with pytest.raises(ValueError, match="2 points and 1 costs"):
        paths_of(frame, ["first"], {"first": [1.0]})
