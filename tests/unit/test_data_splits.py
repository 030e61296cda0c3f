"""No prompt crosses a split, sizes are near what was asked, and the order of rows decides nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.preferences import read_preferences
from trueup.data.rows import Message, Prompt
from trueup.data.splits import folds, groups_of, partition, rest_of, split_rows
from trueup.data.turns import opening_turn

GROUPS = st.lists(st.sampled_from([f"g{i}" for i in range(12)]), min_size=20, max_size=120).filter(lambda g: len(set(g)) >= 5)


@settings(max_examples=50, deadline=None)
@given(GROUPS, st.integers(2, 5), st.integers(0, 99))
def test_folds_cover_all_rows_once_and_no_group_twice(groups: list[str], k: int, seed: int) -> None:
    found = folds(groups, k, Key(seed))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(groups)))
    where = [{groups[i] for i in fold} for fold in found]
    assert all(a.isdisjoint(b) for n, a in enumerate(where) for b in where[n + 1 :])
    # The next group always goes to the smallest fold, so two folds differ by at most the largest group.
    assert max(map(len, found)) - min(map(len, found)) <= max(groups.count(g) for g in groups)
    for fold in found:
        assert set(rest_of(fold, len(groups))) | set(fold.tolist()) == set(range(len(groups)))


@settings(max_examples=50, deadline=None)
@given(GROUPS, st.integers(0, 99))
def test_partitions_are_disjoint_and_none_is_empty(groups: list[str], seed: int) -> None:
    found = partition(groups, Key(seed), {"train": 0.6, "validation": 0.2, "test": 0.2})
    assert sorted(i for rows in found.values() for i in rows) == list(range(len(groups)))
    assert all(len(rows) for rows in found.values())
    names = [{groups[i] for i in rows} for rows in found.values()]
    assert all(a.isdisjoint(b) for n, a in enumerate(names) for b in names[n + 1 :])


def test_shares_are_met_where_groups_are_small() -> None:
    groups = [f"g{i // 2}" for i in range(1000)]  # 500 groups of two rows
    found = partition(groups, Key(1))
    assert [len(found[s]) for s in ("train", "validation", "test")] == [800, 100, 100]
    assert len(partition(groups, Key(1), {"train": 1.0, "validation": 0.0, "test": 0.0})["test"]) == 0


def test_the_order_of_rows_decides_nothing() -> None:
    groups = [f"g{i}" for i in range(50)]
    straight = partition(groups, Key(3))
    reverse = partition(groups[::-1], Key(3))
    assert {groups[i] for i in straight["test"]} == {groups[::-1][i] for i in reverse["test"]}
    other = partition(groups, Key(4))
    assert {groups[i] for i in straight["test"]} != {groups[i] for i in other["test"]}


def test_too_few_prompts() -> None:
    with pytest.raises(UserError, match="5 folds need at least 5"):
        folds(["a", "b"], 5, Key(0))
    with pytest.raises(UserError, match="Use fewer folds"):
        folds(["a", "b"], 1, Key(0))
    with pytest.raises(UserError, match="3 splits need"):
        partition(["a", "b"], Key(0))
    with pytest.raises(UserError, match="sum to 1"):
        partition(["a", "b", "c"], Key(0), {"train": 0.5, "test": 0.4})


def test_the_opening_turn_is_the_first_thing_the_user_says() -> None:
    turns = (Message(role="system", content="be nice"), Message(role="user", content="Hi  THERE\n"), Message(role="assistant", content="x"))
    assert opening_turn(turns) == opening_turn("hi there") == "hi there"


def test_rows_are_marked_with_their_split() -> None:
    pairs = read_preferences([{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(20)])
    found = split_rows(pairs, Key(0), {"train": 0.5, "validation": 0.25, "test": 0.25})
    assert {p.prompt.split for p in found["test"]} == {"test"}
    assert groups_of(found["test"])
    prompts = split_rows([Prompt(id=str(i), text=f"p{i}") for i in range(20)], Key(0))
    assert {p.split for p in prompts["validation"]} == {"validation"}
