"""How held-out accuracy grows with the number of labels: a model fitted again to growing shares of its training data.

One row a model, share and judged pair: ``model``, ``share`` of the labels, ``labels`` fitted to, ``prompt_id`` of a held-out pair and
whether it was judged ``right`` (1, 0; 1/2 for equal scores).
"""

from __future__ import annotations

from typing import Any

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.stats.bootstrap import mean_estimate, paired_difference


def answer(evidence: Evidence) -> Answer:
    """Alarm where the last doubling of the labels is shown to have raised the accuracy by more than the threshold."""
    settings, curve = evidence.settings, evidence.curve
    if curve.empty:
        return unknown("the model was not fitted again to parts of its data; --training-data with --learning-curve does it")
    shares = sorted(curve["share"].unique())
    parts = {share: curve[curve["share"] == share] for share in shares}
    if parts[shares[-1]]["prompt_id"].nunique() < settings.min_prompts:
        return unknown(f"{parts[shares[-1]]['prompt_id'].nunique()} prompts are held out, {settings.min_prompts} are needed")
    found = [
        mean_estimate(rows["right"], rows["prompt_id"], f"accuracy_at_{int(rows['labels'].iloc[0])}", "share", evidence.key / "curve")
        for rows in parts.values()
    ]
    labels = [int(rows["labels"].iloc[0]) for rows in parts.values()]
    series: dict[str, list[Any]] = {
        "labels": labels,
        "accuracy": [e.value for e in found],
        "accuracy_low": [e.low for e in found],
        "accuracy_high": [e.high for e in found],
    }
    if len(shares) < 2:
        return Answer(verdict="not enough data", rule="Not enough data: one share has no curve.", estimates=tuple(found), series=series)
    last, before = parts[shares[-1]], parts[shares[-2]]
    rise = paired_difference(
        last["right"], last["prompt_id"], before["right"], before["prompt_id"], "last_rise", "share", evidence.key / "rise",
        level=settings.one_sided,
    )  # fmt: skip
    alarm = rise.low is not None and rise.low > settings.min_label_rise
    rule = (
        f"From {labels[-2]} to {labels[-1]} labels accuracy rose by {shown(rise)}; "
        f"{'shown to be' if alarm else 'not shown to be'} more than {settings.min_label_rise:g}."
    )
    return Answer(verdict="alarm" if alarm else "quiet", rule=rule, estimates=(*found, rise), series=series)


QUESTION = Question(
    name="labels",
    title="Labels",
    ask="Did it have enough labels?",
    lede="Accuracy on held-out prompts of the model fitted again to growing shares of its training data; the last rise is what the last "
    "of these steps gained.",
    answer=answer,
)
