"""Attribution to reward model, optimizer and evaluation, on outcomes that are chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.isolation import BASELINE, Cell, Ends, Reading, ends_of, isolate, shapley_values

P = 40


def ends(gain: float, noise: float = 0.0, seed: int = 0) -> Ends:
    """A gain that all prompts share, up to noise that averages out."""
    wave = noise * (Key(seed).generator().permutation(P) - (P - 1) / 2) / P
    return Ends(first=(np.zeros(P), np.ones(P)), last=(gain + wave, np.ones(P)))


def grid(value, noise: float = 0.0) -> dict[Cell, Ends]:
    """All eight cells; ``value`` of (reward model, optimizer, evaluation) exchanged or not."""
    return {
        Cell(*("other" if x else BASELINE for x in (r, o, e))): ends(value(r, o, e), noise, 4 * r + 2 * o + e)
        for r in (0, 1) for o in (0, 1) for e in (0, 1)
    }  # fmt: skip


SCALES = {BASELINE: 1.0, "other": 1.0}


def test_shapley_values_of_three_players() -> None:
    # 6 a + 2 b + 3 a b + 6 a b c, with a, b, c in {0, 1}: a product of k players is shared alike among them
    def value(s: tuple[int, ...]) -> np.ndarray:
        a, b, c = (int(i in s) for i in range(3))
        return np.array(6.0 * a + 2 * b + 3 * a * b + 6 * a * b * c)

    found = shapley_values((0, 1, 2), value)
    assert {i: float(v) for i, v in found.items()} == pytest.approx({0: 6 + 1.5 + 2, 1: 2 + 1.5 + 2, 2: 2})


def test_one_part_does_it_all() -> None:
    # only the reward model matters; 2 is two of its standard deviations of 0.5, so 4
    found = isolate(grid(lambda r, o, e: 1 - 2.0 * r), {BASELINE: 0.5, "other": 0.5}, Key(0), draws=100)
    for change in (*found.one_at_a_time, *found.shapley):
        assert change.total.value == pytest.approx(-4.0)
        assert {n: e.value for n, e in change.effects.items()} == pytest.approx({"reward_model": -4, "optimizer": 0, "evaluation": 0})
        assert {n: e.value for n, e in change.shares.items()} == pytest.approx({"reward_model": 1, "optimizer": 0, "evaluation": 0})


def test_an_interaction_is_shared_by_the_grid_and_lost_one_at_a_time() -> None:
    # -1 by the reward model, and -2 more where the optimizer is exchanged too: one at a time sees -1 and 0; Shapley gives half of -2 to
    # each
    found = isolate(grid(lambda r, o, e: -1.0 * r - 2 * r * o), SCALES, Key(0), draws=100)
    assert found.one_at_a_time[0].total.value == pytest.approx(-1)
    whole = found.shapley[0]
    assert whole.total.value == pytest.approx(-3)
    assert {n: e.value for n, e in whole.effects.items()} == pytest.approx({"reward_model": -2, "optimizer": -1, "evaluation": 0})
    assert {n: e.value for n, e in whole.shares.items()} == pytest.approx({"reward_model": 2 / 3, "optimizer": 1 / 3, "evaluation": 0})


def test_parts_that_are_not_shown_share_nothing() -> None:
    found = isolate(grid(lambda r, o, e: 0.01 * o, noise=1.0), SCALES, Key(0), draws=200)
    assert all(e.value is None for e in found.one_at_a_time[0].shares.values())
    found = isolate(grid(lambda r, o, e: 2 * r + 0.01 * o, noise=1.0), SCALES, Key(0), draws=200)
    assert found.shapley[0].shares["reward_model"].value == pytest.approx(1.0)
    assert found.shapley[0].effects["optimizer"].low < 0.01 < found.shapley[0].effects["optimizer"].high


def test_without_the_grid_there_is_no_shapley() -> None:
    cells = {c: e for c, e in grid(lambda r, o, e: r).items() if len(c.exchanged()) < 2}
    found = isolate(cells, SCALES, Key(0), draws=100)
    assert (len(found.one_at_a_time), found.shapley) == (1, ())
    # two alternatives of one part are two choices, each with the other parts' only alternative
    more = {**cells, Cell(reward_model="third"): ends(5.0)}
    assert [c.cell.reward_model for c in isolate(more, SCALES, Key(0), draws=100).one_at_a_time] == ["other", "third"]


def table() -> pd.DataFrame:
    """Two checkpoints of three prompts: gold rises by 1 on prompt a, by 3 on b, and c is asked in another variant only."""
    rows = [
        ("a", "ask", None, 0, 0.0), ("a", "ask", None, 10, 1.0), ("b", "tell", None, 0, 2.0), ("b", "tell", None, 10, 5.0),
        ("c", "ask", "greedy", 0, 1.0), ("c", "ask", "greedy", 10, 8.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["prompt_id", "prompt", "variant", "step", "gold"])
    return frame.assign(arm="x", split="test")


def test_readings() -> None:
    ones = np.ones((1, 3))

    def gain(**reading) -> float:
        return float(ends_of(table(), "x", Reading(column="gold", **reading), ["a", "b", "c"]).gain(ones)[0])

    assert gain() == pytest.approx((1 + 3) / 2)
    assert gain(prompts="^tel+") == pytest.approx(3)
    assert gain(variant="greedy") == pytest.approx(7)
    with pytest.raises(UserError, match=r"no value of column 'gold' on prompts that match 'sing'"):
        gain(prompts="sing")
    with pytest.raises(UserError, match=r"column 'evaluations\.quiz'"):
        ends_of(table(), "x", Reading(column="evaluations.quiz"), ["a"])
