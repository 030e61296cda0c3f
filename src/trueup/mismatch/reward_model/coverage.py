"""How much of what a policy is asked and writes the training data cover: contexts kappa, outputs rho (Chaudhari et al. 2024, section 5.1).

A prompt, or reply, is covered where its nearest neighbour in the training data is no farther than 95 % of the training data have their
own nearest other one. Of data like the training data 95 % are covered.
"""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.samples import DISTANCES, POLICY, REFERENCE, Grid, grid_of
from trueup.stats.bootstrap import mean_estimate, paired_difference
from trueup.stats.estimate import Estimate

NAMES = dict(zip(DISTANCES, ("kappa", "rho"), strict=True))


def answer(evidence: Evidence) -> Answer:
    """Alarm where the policy left the data that the reference was in, or most prompts were never in them."""
    settings, key = evidence.settings, evidence.key
    grids = {name: grid_of(evidence.samples, name) for name in (REFERENCE, POLICY)}
    level = settings.one_sided
    found: dict[str, Estimate] = {}
    for policy, grid in grids.items():
        for column, name in NAMES.items():
            if column in grid.rows and grid.rows[column].notna().any():
                one = f"{name}_{policy}"
                found[one] = mean_estimate(_covered(grid, column), grid.rows["prompt_id"], one, "share", key / one, level=level)
    if not found:
        return unknown(
            "no distances to the training data are known; give --training-data, or the columns context_distance, output_distance"
        )
    if max(e.n for e in found.values()) < settings.min_prompts:
        return unknown(f"{max(e.n for e in found.values())} prompts have distances, {settings.min_prompts} are needed")
    lost: Estimate | None = None
    if {"rho_reference", "rho_policy"} <= set(found):
        sides = [(_covered(grids[p], "output_distance"), grids[p].rows["prompt_id"]) for p in (REFERENCE, POLICY)]
        lost = paired_difference(*sides[0], *sides[1], "rho_lost", "share", key / "lost", level=level)
        found["rho_lost"] = lost
    told = "; ".join(f"{e.name.replace('_', ' of ')} {shown(e)}" for e in found.values() if e is not lost)
    left = lost is not None and lost.low is not None and lost.low > settings.max_coverage_lost
    strange = any(e.high is not None and e.high < 0.5 for n, e in found.items() if n.startswith("kappa"))
    rule = f"Covered by the training data: {told}."
    if left and lost is not None:
        rule += f" The policy lost {shown(lost)}; {settings.max_coverage_lost:g} is allowed."
    if strange:
        rule += " Most prompts are not covered."
    return Answer(verdict="alarm" if left or strange else "quiet", rule=rule, estimates=tuple(found.values()))


def _covered(grid: Grid, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """[N] 1 where covered, NaN where unknown."""
    distance = grid.rows[column].to_numpy(dtype=float)
    return np.where(np.isnan(distance), np.nan, (distance <= 1).astype(float))


QUESTION = Question(
    name="coverage",
    title="Coverage",
    ask="Do the training data cover what the policy is asked and writes?",
    lede="Share of prompts (kappa) and of replies (rho) whose nearest neighbour in the training data is as near as 95 % of the training "
    "data have theirs.",
    answer=answer,
)
