"""Judged groups as pairs, for what compares two replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from trueup.data.rows import Judged, Preference


def pairs_of(groups: Sequence[Judged]) -> list[Preference]:
    """Every pair of replies of a group that were not judged equal, the better one chosen; a group's domain becomes a tag of the prompt."""
    found = []
    for group in groups:
        prompt = replace(group.prompt, tags={**group.prompt.tags, "domain": group.domain}) if group.domain else group.prompt
        for i, j in combinations(range(len(group.replies)), 2):
            if group.ratings[i] == group.ratings[j]:
                continue
            better, worse = (i, j) if group.ratings[i] > group.ratings[j] else (j, i)
            found.append(
                Preference(
                    id=group.id if len(group.replies) == 2 else f"{group.id}:{better}-{worse}",
                    prompt=prompt,
                    chosen=group.replies[better],
                    rejected=group.replies[worse],
                    annotator=group.annotator,
                    margin=group.margin,
                    where=group.where,
                )
            )
    return found
