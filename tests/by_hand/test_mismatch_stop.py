"""The stop rule: its walk along a run by hand, what it asks, and how often it stops wrongly when it looks all the time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.stop_rule import StopRule, next_comparisons, watch
from trueup.stats.eprocess import crossed, restarted


def run(checkpoints: int, prompts: int = 12, samples: int = 8) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": "x", "step": s * 10, "split": "test", "prompt_id": f"p{p:02d}", "sample_id": f"{s}:{p}:{k}", "labels": []}
            for s in range(checkpoints)
            for p in range(prompts)
            for k in range(samples)
        ]
    )


def labelled(records: pd.DataFrame, outcomes: list[tuple[str, str, float]]) -> pd.DataFrame:
    """Comparisons (later reply, earlier reply, preference for the later), written on the later one."""
    by: dict[str, list] = {}
    for later, earlier, preference in outcomes:
        by.setdefault(later, []).append({"annotator": "a", "other_sample_id": earlier, "preference": preference})
    return records.assign(labels=[by.get(s, []) for s in records["sample_id"]])


def test_a_walk_by_hand() -> None:
    won = [(f"1:{p}:0", f"0:{p}:0", 1.0) for p in range(3)]  # step 10 beats the first: it is the best so far
    lost = [(f"2:{p}:0", f"1:{p}:1", 0.0) for p in range(4)]  # step 20 loses to it
    tied = [("3:0:0", "1:0:2", 0.5), ("3:1:0", "1:1:2", 0.0)]  # step 30 as well
    stray = [("3:2:0", "0:2:1", 1.0), ("3:3:0", "1:0:1", 1.0), ("3:4:0", "3:4:1", 1.0)]  # not the best; used before; within a checkpoint
    found = watch(labelled(run(4), won + lost + tied + stray), "x", StopRule(looks=3))
    assert found is not None
    assert [(k.step, k.against, k.n, k.difference) for k in found.looks] == [(10, 0, 3, 1.0), (20, 10, 4, -1.0), (30, 10, 2, -0.5)]
    assert (found.best_step, found.n, found.stop_step) == (10, 9, None)

    # capital in thirds, bets .1 .2 .4 .6 a quarter each; the first third loses three and wins four and so on
    def part(results: list[int]) -> float:
        return float(np.mean([np.prod([1 - b * r for r in results]) for b in (0.1, 0.2, 0.4, 0.6)]))

    first = part([1, 1, 1])
    assert found.looks[0].capital == pytest.approx((first + 2) / 3)
    second = part([1, 1, 1, -1, -1, -1, -1]), part([-1] * 4)
    assert found.looks[1].capital == pytest.approx((sum(second) + 1) / 3)


def test_it_stops_where_the_capital_is_reached() -> None:
    # one part: after n losses the capital is the mean of 1.1^n, 1.2^n, 1.4^n, 1.6^n. n = 8: (2.14 + 4.30 + 14.76 + 42.95) / 4 = 16.0;
    # n = 9: (2.36 + 5.16 + 20.66 + 68.72) / 4 = 24.2, above 20
    outcomes = [(f"1:{p}:{k}", f"0:{p}:{k}", 0.0) for p in range(12) for k in range(1)]
    found = watch(labelled(run(2), outcomes), "x", StopRule(looks=1))
    assert found is not None
    assert (found.stop_step, found.stop_after, found.best_step) == (10, 9, 0)
    # a margin of a half: a loss moves by (1 - .5) / 1.5 = 1/3 of the bound: 12 losses give (1.033^12 + 1.067^12 + 1.133^12 + 1.2^12) / 4
    # = (1.482 + 2.169 + 4.491 + 8.916) / 4 = 4.2645
    lenient = watch(labelled(run(2), outcomes), "x", StopRule(looks=1, margin=0.5))
    assert lenient is not None
    assert lenient.stop_step is None
    assert lenient.looks[0].capital == pytest.approx(4.2645, abs=1e-3)


def test_nothing_to_look_at() -> None:
    assert watch(run(2), "nobody", StopRule()) is None
    found = watch(run(3), "x", StopRule())
    assert found is not None
    assert (found.looks, found.best_step, found.stop_step, found.n) == ((), 0, None, 0)
    with pytest.raises(ValueError, match="two checkpoints"):
        next_comparisons(run(1), "x", 5, Key(0))


def test_what_is_asked_is_fresh() -> None:
    won = [(f"1:{p}:0", f"0:{p}:0", 1.0) for p in range(3)]
    lost = [(f"2:{p}:0", f"1:{p}:1", 0.0) for p in range(4)]
    records = labelled(run(4), won + lost)
    best, pairs = next_comparisons(records, "x", 30, Key(1))
    assert best == 10
    assert len(pairs) == 30
    used = {s for c in won + lost for s in c[:2]}
    asked = [s for pair in pairs for s in pair]
    assert len(set(asked)) == len(asked)
    assert not set(asked) & used
    assert all(a.split(":")[:2] == ["3", b.split(":")[1]] and b.startswith("1:") for a, b in pairs)
    assert next_comparisons(records, "x", 30, Key(1)) == (best, pairs)
    # twelve prompts of eight replies give 96 comparisons at most, less what was used of the best
    assert len(next_comparisons(records, "x", 500, Key(2))[1]) == 96 - 7


def lived(utilities: list[float], per_look: int, seed: int, settings: StopRule) -> int | None:
    """A run of those utilities (log-odds), asked as it would be asked live; the step at which it is stopped."""
    records, outcomes = run(len(utilities), samples=12), []
    for t in range(1, len(utilities)):
        seen = labelled(records[records["step"] <= t * 10], outcomes)
        best, pairs = next_comparisons(seen, "x", per_look, Key(seed) / t)
        chance = 1 / (1 + np.exp(utilities[best // 10] - utilities[t]))
        draws = (Key(seed) / t / "labels").generator().random(len(pairs))
        outcomes += [(a, b, float(u < chance)) for (a, b), u in zip(pairs, draws, strict=True)]
        found = watch(labelled(records[records["step"] <= t * 10], outcomes), "x", settings)
        assert found is not None
        if found.stop_step is not None:
            return found.stop_step
    return None


def test_it_stops_after_a_fall() -> None:
    fallen = [lived([0.0, 0.8, -0.5, -1.2], 30, seed, StopRule(looks=3)) for seed in range(6)]
    assert sum(s is not None and s >= 20 for s in fallen) >= 5
    assert [lived([0.0, 0.8, 1.6, 2.4], 30, seed, StopRule(looks=3)) for seed in range(3)] == [None] * 3


def test_looking_all_the_time_it_seldom_stops_wrongly() -> None:
    """Equal checkpoints, the border of the null hypothesis: whatever is the best so far, comparisons are coins.

    600 runs of ten looks at twenty comparisons, alpha .1, standard error .012.
    """
    coins = np.where(Key(4).generator().random((600, 200)) < 0.5, -1.0, 1.0)
    stopped = [crossed(restarted(c, range(0, 200, 20), 10, 1.0), 0.1) > 0 for c in coins]
    assert np.mean(stopped) <= 0.1 + 3 * 0.012
