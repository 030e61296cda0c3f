"""Judged groups as pairs, for what compares two replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from trueup.data.rows import Judged, Preference


def pairs_of(groups: Sequence[Judged]) -> list[Preference]:
    """Every pair of replies of a group that were not judged equal, the better one chosen; a group's domain becomes a tag of the prompt."""
    found = []
    for group in groups:
        prompt = replace(group.prompt, tags={**group.prompt.tags, "domain": group.domain}) if group.domain else group.prompt
        for name, better, worse in _unequal(group):
            found.append(
                Preference(
                    id=name,
                    prompt=prompt,
                    chosen=group.replies[better],
                    rejected=group.replies[worse],
                    annotator=group.annotator,
                    margin=group.margin,
                    where=group.where,
                )
            )
    return found


def judged_pairs(groups: Sequence[Judged]) -> dict[str, Judged]:
    """The same pairs as groups of two that keep their ratings, by the pair's id."""
    return {
        name: replace(
            group, id=name, replies=(group.replies[i], group.replies[j]), ratings=(group.ratings[i], group.ratings[j]), styles=(), votes=()
        )
        for group in groups
        for name, i, j in _unequal(group)
    }


def _unequal(group: Judged) -> Iterator[tuple[str, int, int]]:
    """Id, better and worse reply of each pair."""
    for i, j in combinations(range(len(group.replies)), 2):
        if group.ratings[i] != group.ratings[j]:
            better, worse = (i, j) if group.ratings[i] > group.ratings[j] else (j, i)
            yield (group.id if len(group.replies) == 2 else f"{group.id}:{better}-{worse}"), better, worse
