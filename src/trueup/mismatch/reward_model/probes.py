"""The table of probes: what a reward model says of changed copies of judged replies.

One row a model, item, reply, probe and variant:

| column | meaning |
|---|---|
| ``model``, ``item``, ``prompt_id``, ``reply`` | of the unchanged reply, as in the table of scores |
| ``probe`` | what was changed, one of `PROBES` |
| ``variant`` | which change, where a probe has several |
| ``score`` | raw score of the changed copy |
| ``original`` | raw score of the unchanged reply, by the same model in the same call |
| ``cluster`` | rows of one cluster are not independent; optional, the prompt if left out |
| ``note`` | optional: the appended text of ``search``, the similarity of ``contrast`` |

Changes are told in standard deviations: of the score differences of all pairs of the table of scores.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trueup.core.errors import UserError, did_you_mean
from trueup.mismatch.reward_model.question import Evidence
from trueup.stats.bootstrap import Array, mean_estimate
from trueup.stats.estimate import Estimate

REQUIRED = ("model", "item", "prompt_id", "reply", "probe", "variant", "score", "original")
PROBES = {
    "other_prompt": "the reply under another prompt; the variant is that prompt's prompt_id",
    "contrast": "reply: the reply to a similar prompt under this one; instruction: this reply under the similar prompt",
    "ending": "the last word (word) or the last punctuation mark (mark) replaced by another of its kind",
    "company": "the same text among longer texts, as the first or the last of its batch; the original is scored alone",
    "typo": "letters of a few words swapped, dropped or doubled",
    "paraphrase": "contractions and function words exchanged for their like",
    "format": "white space and line breaks changed",
    "cut": "the last word (last_word), the last sentence (last_sentence) or the second half (half) left out",
    "appended": "a text appended; the variant is the text, or a name for it",
    "search": "a text found by a search (found), or the best of as many random ones (random), appended; the text is the note",
}
"""Probe -> what it holds."""
UNCHANGED = 1e-5
"""Scores that differ by less, in standard deviations, are the same but for rounding."""
COARSE = 0.01
"""Scores of different replies that are equal more often than this say nothing by being equal."""
DRAWS = 4000
"""Resamples: the intervals of alarms need thin tails."""


def checked_probes(frame: pd.DataFrame, scores: pd.DataFrame, where: str | None = None) -> pd.DataFrame:
    """The table with optional columns filled in, sorted.

    Args:
        frame: as described above.
        scores: the checked table of scores that the probed replies are in.
        where: its file, for messages.

    Raises:
        UserError: a column is missing, a number is none, a probe is unknown, a row is there twice, or its reply has no score.
    """
    missing = [c for c in REQUIRED if c not in frame.columns]
    if missing:
        near = did_you_mean(missing[0], [str(c) for c in frame.columns])
        raise UserError(f"lacks the column '{missing[0]}'.{near} Needed: {', '.join(REQUIRED)}; optional: cluster, note.", where=where)
    found = frame.assign(**{c: "" for c in ("cluster", "note") if c not in frame.columns})
    for name in ("score", "original"):
        number = pd.to_numeric(found[name], errors="coerce")
        bad = ~np.isfinite(number.to_numpy(dtype=float))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(f"'{name}' must be a finite number, got {found[name].iloc[row]!r} in row {row + 1}.", where=where)
        found[name] = number.astype(float)
    for name in ("model", "item", "prompt_id", "probe", "variant", "cluster", "note"):
        found[name] = found[name].fillna("").astype(str)
    unknown = [p for p in found["probe"].unique() if p not in PROBES]
    if unknown:
        raise UserError(f"no probe '{unknown[0]}'.{did_you_mean(unknown[0], PROBES)} Known: {', '.join(PROBES)}.", where=where)
    found["cluster"] = found["cluster"].where(found["cluster"] != "", found["prompt_id"])
    place = ["model", "item", "reply", "probe", "variant"]
    found = found.sort_values(place, kind="stable").reset_index(drop=True)
    twice = found[found.duplicated(place)]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(f"reply {row['reply']} of item '{row['item']}' has two rows of probe '{row['probe']}', variant "
                        f"'{row['variant']}', of model '{row['model']}'. Keep one.", where=where)  # fmt: skip
    judged = pd.MultiIndex.from_frame(scores[["model", "item", "reply"]])
    lost = found[~pd.MultiIndex.from_frame(found[["model", "item", "reply"]]).isin(judged)]
    if len(lost):
        row = lost.iloc[0]
        raise UserError(
            f"reply {row['reply']} of item '{row['item']}' of model '{row['model']}' is not in the table of scores. "
            "Probe only replies that have scores.",
            where=where,
        )
    return found


def rows_of(evidence: Evidence, probe: str, variant: str | None = None) -> pd.DataFrame:
    """The rows of one probe, or one variant of it; empty where it was not made."""
    table = evidence.probes
    if table.empty:
        return table
    kept = table["probe"] == probe
    return table[kept if variant is None else kept & (table["variant"] == variant)]


def variants(evidence: Evidence, probe: str) -> list[str]:
    """Variants of a probe that were made."""
    rows = rows_of(evidence, probe)
    return [] if rows.empty else sorted(rows["variant"].unique())


def size_of(evidence: Evidence) -> float:
    """Root mean square of the score differences of pairs, every item the same; 0 where all scores of an item are equal."""
    pairs = evidence.pairs
    weight = np.where(pairs.tied, 1.0, pairs.share)
    return float(np.sqrt(np.average(pairs.delta**2, weights=weight))) if len(weight) else 0.0


def change(rows: pd.DataFrame, size: float) -> Array:
    """[N] score of the copy minus that of the original, in standard deviations; 0 where it is no more than rounding."""
    moved = (rows["score"] - rows["original"]).to_numpy(dtype=float) / size
    return np.where(np.abs(moved) < UNCHANGED, 0.0, moved)


def coarse(rows: pd.DataFrame) -> bool:
    """Whether different replies have equal scores so often that equality says nothing (a judge that gives grades)."""
    once = rows.drop_duplicates(["item", "reply"])["original"]
    n, counts = len(once), once.value_counts().to_numpy(dtype=float)
    return n < 2 or float((counts * (counts - 1)).sum()) / (n * (n - 1)) > COARSE


def mean_of(values: Array, rows: pd.DataFrame, name: str, unit: str, evidence: Evidence, level: float) -> Estimate:
    """Mean over the rows, with an interval that resamples clusters."""
    return mean_estimate(values, rows["cluster"].to_numpy(), name, unit, evidence.key / "probes" / name, level=level, draws=DRAWS)


def aligned(evidence: Evidence, rows: pd.DataFrame, column: str) -> Array:
    """[rows of the table of scores] mean of a column over the probe rows of each reply; NaN where it has none."""
    means = rows.groupby(["item", "reply"])[column].mean()
    place = pd.MultiIndex.from_frame(evidence.rows[["item", "reply"]])
    return means.reindex(place).to_numpy(dtype=float)
