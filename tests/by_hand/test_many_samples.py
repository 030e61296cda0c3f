"""What lets diagnoses read a million rows: shared panels, drawn pairs, disjoint pairs found at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch import pairs as module
from trueup.mismatch.pairs import Pairs, disjoint, policy_pairs
from trueup.mismatch.panel import keeping, panel_of
from trueup.mismatch.verdict import DIAGNOSES, diagnose_all


def frame(prompts: int, samples: int, steps: int = 2) -> pd.DataFrame:
    step, prompt, sample = (a.ravel() for a in np.indices((steps, prompts, samples)))
    return pd.DataFrame(
        {
            "arm": "a", "split": "test", "step": step, "prompt_id": [f"p{p}" for p in prompt], "proxy_fixed": sample + 0.1 * step,
            "sample_id": [f"{s}-{p}-{k}" for s, p, k in zip(step, prompt, sample, strict=True)], "response": "",
        }
    )  # fmt: skip


def one_by_one(first: list[int], second: list[int]) -> list[int]:
    """Greedily, as one would by hand."""
    used: set[int] = set()
    kept = []
    for i, pair in enumerate(zip(first, second, strict=True)):
        if not used & set(pair):
            used |= set(pair)
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(10))
def test_disjoint_pairs_are_those_of_one_by_one(seed: int) -> None:
    g = Key(seed).generator()
    first = g.integers(0, 30, 80)
    second = (first + g.integers(1, 30, 80)) % 30
    found = Pairs(rows=pd.DataFrame({"x": range(30)}), first=first, second=second, preference=np.arange(80.0))
    assert disjoint(found).preference.tolist() == one_by_one(first.tolist(), second.tolist())
    # a chain of neighbours: every other one stays
    chain = Pairs(rows=found.rows, first=np.arange(29), second=np.arange(1, 30), preference=np.arange(29.0))
    assert disjoint(chain).preference.tolist() == list(range(0, 29, 2))


def test_of_very_many_pairs_a_balanced_part_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    records = frame(50, 10)
    whole = policy_pairs(panel_of(records, "a"))
    assert len(whole) == 2 * 50 * 45  # 10 replies make 45 pairs
    monkeypatch.setattr(module, "MOST_PAIRS", 2000)
    panel = panel_of(records, "a")
    drawn = policy_pairs(panel)
    # one partner further in a random order makes 9 pairs of 10 replies: 900; two make 17: 1,700; three would make 24: 2,400
    assert len(drawn) == 1700
    cell = panel.step * 50 + panel.prompt
    assert (cell[drawn.first] == cell[drawn.second]).all()
    assert (drawn.first < drawn.second).all()
    assert len(set(zip(drawn.first.tolist(), drawn.second.tolist(), strict=True))) == 1700
    # rows are in the order of the score: two of 0..9 drawn at random differ by 11/3 in the mean, neighbours and those next to them by 1.5;
    # the standard deviation of one difference is 2.2, and of the mean of 1,700 that share replies less than 0.1
    assert abs(np.abs(drawn.difference(panel.column("proxy_fixed"))).mean() - 11 / 3) < 0.3


def test_labelled_pairs_are_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    records = frame(1, 10)
    records["labels"] = [[] for _ in range(len(records))]
    ids = records["sample_id"].tolist()
    for a in range(10):
        records.at[a, "labels"] = [{"annotator": "x", "other_sample_id": ids[b], "preference": 1.0} for b in range(a + 1, 10)]
    found = policy_pairs(panel_of(records, "a"))
    assert np.isfinite(found.preference).sum() == 45


def test_panels_are_shared_inside_and_never_between_frames() -> None:
    records = frame(3, 2)
    changed = records.assign(proxy_fixed=7.0)
    with keeping(records):
        first = panel_of(records, "a")
        assert panel_of(records, "a") is first
        assert panel_of(changed, "a").column("proxy_fixed").tolist() == [7.0] * 12
        with keeping(records):
            assert panel_of(records, "a") is first
    records["proxy_fixed"] = 1.0
    assert panel_of(records, "a").column("proxy_fixed").tolist() == [1.0] * 12


def test_the_order_of_rows_does_not_matter() -> None:
    records = frame(12, 11)  # samples 0 to 10: 10 comes before 2 by name
    panel = panel_of(records, "a")
    shuffled = records.iloc[Key(1).permutation(len(records))].reset_index(drop=True)
    again = panel_of(shuffled, "a")
    assert again.rows.equals(panel.rows)
    assert panel.prompts.tolist() == sorted(panel.prompts)
    for place in (panel, again):
        names = list(zip(place.rows["step"], place.rows["prompt_id"], place.rows["sample_id"], strict=True))
        assert all(a < b for a, b in pairwise(names))
        assert (place.prompts[place.prompt] == place.rows["prompt_id"]).all()
        assert (place.steps[place.step] == place.rows["step"]).all()


def test_absent_texts_are_not_replies_without_words() -> None:
    records = frame(40, 4, steps=5)
    records["gold"] = Key(2).generator().normal(size=len(records))
    found, _ = diagnose_all(records, ["a"], Key(0))
    answers = {d.name: d for d in found}
    reading = [m.NAME for m in DIAGNOSES if getattr(m, "READS_TEXTS", False)]
    assert {"exploits", "style", "length", "coverage", "diversity"} <= {*reading, "length"}
    for name in (*reading, "length"):
        assert answers[name].verdict == "not enough data"
        assert "no reply has a text" in answers[name].rule
