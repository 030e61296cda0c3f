"""Scores of replies sampled from policies, and comparisons of such replies: what the questions of teaching quality read.

Samples, one row a model, policy, prompt and sample:

| column | meaning |
|---|---|
| ``model`` | which reward model |
| ``policy`` | ``reference``, the policy before its optimisation, or ``policy``, the one after |
| ``prompt_id`` | the request; both policies answer the same ones |
| ``sample`` | number of the reply among those of its policy and prompt |
| ``score`` | what the model said, raw |
| ``gold`` | the score believed true; optional |
| ``prompt``, ``reply`` | texts; optional |
| ``member_NAME`` | scores of an ensemble's members; optional, two or more |
| ``context_distance`` | distance of the prompt to the nearest prompt of the training data, in units within which 95 % of the training prompts have their own nearest other one; optional |
| ``output_distance`` | the same of the reply to a training reply; optional |
| ``feature_NAME`` | count of a named feature of the reply; optional |

Comparisons, one row a label; several labels of a pair count as their mean:

| column | meaning |
|---|---|
| ``prompt_id`` | the request |
| ``first``, ``second`` | numbers of two samples of one policy |
| ``outcome`` | 1 the first is better, 0 the second, 1/2 neither; empty where it was not judged |
| ``policy`` | whose samples; ``reference`` where left out |
| ``probability`` | with which the pair was chosen; all pairs alike where left out |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.errors import UserError, did_you_mean
from trueup.mismatch.features import PREFIX
from trueup.mismatch.reward_model.gains import Compared
from trueup.stats.bootstrap import Array

REFERENCE, POLICY = "reference", "policy"
MEMBER = "member_"
DISTANCES = ("context_distance", "output_distance")
REQUIRED = ("model", "policy", "prompt_id", "sample", "score")
COMPARED = ("prompt_id", "first", "second", "outcome")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One model's and policy's samples as prompts by replies."""

    rows: pd.DataFrame
    prompts: tuple[str, ...]
    """[P]"""
    prompt: NDArray[np.int64]
    """[N] number of each row's prompt."""
    place: NDArray[np.int64]
    """[N] number of each row among those of its prompt."""

    @property
    def shape(self) -> tuple[int, int]:
        """P and K, the most samples of a prompt."""
        return len(self.prompts), int(self.place.max(initial=-1)) + 1

    def column(self, name: str) -> Array:
        """[P, K] a column; NaN where there is no reply or no value."""
        found = np.full(self.shape, np.nan)
        found[self.prompt, self.place] = self.rows[name].to_numpy(dtype=float)
        return found

    def texts(self) -> list[list[str]] | None:
        """[P][K] the replies, empty where there is none; None where texts were not kept."""
        if "reply" not in self.rows or self.rows["reply"].isna().any():
            return None
        found = [[""] * self.shape[1] for _ in self.prompts]
        for p, k, text in zip(self.prompt, self.place, self.rows["reply"], strict=True):
            found[p][k] = str(text)
        return found

    def columns(self, prefix: str) -> dict[str, Array]:
        """All columns whose names begin so and hold any value."""
        names = [str(c) for c in self.rows.columns if str(c).startswith(prefix) and self.rows[c].notna().any()]
        return {name.removeprefix(prefix): self.column(name) for name in names}

    def places(self) -> Mapping[tuple[str, int], tuple[int, int]]:
        """(prompt_id, sample) -> its place in the arrays."""
        keys = zip(self.rows["prompt_id"], self.rows["sample"], strict=True)
        return dict(zip(keys, zip(self.prompt.tolist(), self.place.tolist(), strict=True), strict=True))


def grid_of(samples: pd.DataFrame, policy: str) -> Grid:
    """The samples of one model and policy; without rows where there are none.

    Args:
        samples: of one model, as `checked_samples` gives them.
        policy: ``reference`` or ``policy``.
    """
    rows = samples[samples["policy"] == policy].reset_index(drop=True) if len(samples) else pd.DataFrame(columns=list(REQUIRED))
    prompt, names = pd.factorize(rows["prompt_id"], sort=True)
    place = rows.groupby("prompt_id", sort=False).cumcount().to_numpy(dtype=np.int64)
    return Grid(rows=rows, prompts=tuple(map(str, names)), prompt=prompt.astype(np.int64), place=place)


def compared_of(comparisons: pd.DataFrame, grid: Grid, policy: str) -> Compared | None:
    """The comparisons of one policy's samples as arrays; None where there are none.

    Args:
        comparisons: as `checked_comparisons` gives them.
        grid: of the samples of that policy.
        policy: whose.
    """
    rows = comparisons[comparisons["policy"] == policy] if len(comparisons) else comparisons
    if rows.empty:
        return None
    places = grid.places()
    prompt, first = np.array([places[key] for key in zip(rows["prompt_id"], rows["first"], strict=True)]).T
    second = np.array([places[key][1] for key in zip(rows["prompt_id"], rows["second"], strict=True)])
    sizes = np.bincount(grid.prompt).astype(float)
    alike = min(1.0, len(rows) / float((sizes * (sizes - 1) / 2).sum()))
    probability = rows["probability"].fillna(alike).to_numpy(dtype=float)
    return Compared(prompt=prompt, first=first, second=second, probability=probability, outcome=rows["outcome"].to_numpy(dtype=float))


def checked_samples(frame: pd.DataFrame, where: str | None = None) -> pd.DataFrame:
    """The table, sorted by model, policy, prompt and sample.

    Args:
        frame: as described above.
        where: its file, for messages.

    Raises:
        UserError: a column is missing, a number is none, a policy is neither of the two, models were given different replies.
    """
    _have(frame, REQUIRED, where)
    found = frame.copy()
    named = [str(c) for c in found.columns if str(c).startswith((PREFIX, MEMBER)) or c in (*DISTANCES, "gold")]
    for name in ("score", *named):
        found[name] = _numbers(found[name], name, where, required=name == "score")
    found["sample"] = _whole(found["sample"], "sample", where)
    for name in ("model", "policy", "prompt_id"):
        found[name] = found[name].fillna("").astype(str)
    strange = ~found["policy"].isin([REFERENCE, POLICY])
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise UserError(f"'policy' must be '{REFERENCE}' or '{POLICY}', got {found['policy'].iloc[row]!r} in row {row + 1}.", where=where)
    identity = ["policy", "prompt_id", "sample"]
    found = found.sort_values(["model", *identity], kind="stable").reset_index(drop=True)
    twice = found.duplicated(["model", *identity])
    if twice.any():
        row = found[twice].iloc[0]
        raise UserError(
            f"sample {row['sample']} of prompt '{row['prompt_id']}' ({row['policy']}) has two scores of '{row['model']}'.", where=where
        )
    sets = {name: set(rows[identity].itertuples(index=False, name=None)) for name, rows in found.groupby("model")}
    first = next(iter(sets), None)
    for name, given in sets.items():
        if given != sets[first]:
            policy, prompt, sample = sorted(given ^ sets[first])[0]
            raise UserError(
                f"models '{first}' and '{name}' have scores of different replies, such as sample {sample} of prompt '{prompt}' ({policy}).",
                where=where,
            )
    return found


def checked_comparisons(frame: pd.DataFrame, samples: pd.DataFrame, where: str | None = None) -> pd.DataFrame:
    """The comparisons, several labels of a pair as their mean; pairs without outcome are left out, and the probabilities lowered to match.

    Args:
        frame: as described above.
        samples: as `checked_samples` gives them.
        where: its file, for messages.

    Raises:
        UserError: a column is missing, an outcome is not between 0 and 1, a probability not above 0 and at most 1, a sample is unknown.
    """
    _have(frame, COMPARED, where)
    found = frame.assign(**{c: v for c, v in (("policy", REFERENCE), ("probability", np.nan)) if c not in frame.columns})
    for name, low, allowed in (("outcome", 0.0, "between 0 and 1"), ("probability", 1e-12, "above 0 and at most 1")):
        found[name] = _numbers(found[name], name, where, required=False)
        wrong = found[name].notna() & ~found[name].between(low, 1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(f"'{name}' must be {allowed}, got {found[name].iloc[row]:g} in row {row + 1}.", where=where)
    found["policy"], found["prompt_id"] = found["policy"].fillna(REFERENCE).astype(str), found["prompt_id"].astype(str)
    known = set(samples[["policy", "prompt_id", "sample"]].itertuples(index=False, name=None))
    for name in ("first", "second"):
        found[name] = _whole(found[name], name, where)
        for row, key in enumerate(zip(found["policy"], found["prompt_id"], found[name], strict=True), 1):
            if key not in known:
                raise UserError(
                    f"row {row} compares sample {key[2]} of prompt '{key[1]}' ({key[0]}), which is not among the samples.", where=where
                )
    same = found["first"] == found["second"]
    if same.any():
        raise UserError(f"row {int(np.flatnonzero(same)[0]) + 1} compares a sample with itself.", where=where)
    judged = found["outcome"].notna()
    if not judged.any():
        raise UserError(
            "holds no outcome. Fill in 1 where the first reply is better, 0 where the second is, 0.5 where neither.", where=where
        )
    found["probability"] *= judged.mean()
    return _merged(found[judged])


def _merged(found: pd.DataFrame) -> pd.DataFrame:
    turned = found["first"] > found["second"]
    low, high = found[["first", "second"]].min(axis=1), found[["first", "second"]].max(axis=1)
    one_way = found.assign(first=low, second=high, outcome=np.where(turned, 1 - found["outcome"], found["outcome"]))
    mean = one_way.groupby(["policy", "prompt_id", "first", "second"], sort=True)[["outcome", "probability"]].mean()
    return mean.reset_index()


def _have(frame: pd.DataFrame, needed: tuple[str, ...], where: str | None) -> None:
    missing = [c for c in needed if c not in frame.columns]
    if missing:
        near = did_you_mean(missing[0], [str(c) for c in frame.columns])
        raise UserError(f"lacks the column '{missing[0]}'.{near} Needed: {', '.join(needed)}.", where=where)


def _numbers(column: Any, name: str, where: str | None, *, required: bool) -> Any:
    number = pd.to_numeric(column, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    bad = number.isna() if required else number.isna() & column.notna()
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise UserError(f"'{name}' must be a finite number, got {column.iloc[row]!r} in row {row + 1}.", where=where)
    return number


def _whole(column: Any, name: str, where: str | None) -> Any:
    number = _numbers(column, name, where, required=True)
    if (number != number.round()).any():
        row = int(np.flatnonzero((number != number.round()).to_numpy())[0])
        raise UserError(f"'{name}' must be a whole number, got {number.iloc[row]:g} in row {row + 1}.", where=where)
    return number.astype(int)
