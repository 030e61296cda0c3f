"""Reward models judged alone: accuracy beside what it is compared with, calibration, and what the table cannot say of each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import Absent, Block, Card, Figures, Table
from trueup.report.panels import draw_intervals
from trueup.report.text import ABSENT, between, estimate_text, number, signed

Row = Mapping[str, Any]
COLOURS = ("proxy", "gold", "third", "fourth")


def reward_blocks(reward: Sequence[Row]) -> list[Block]:
    """The cards of a run that fitted reward models only.

    Args:
        reward: rows of ``reward.json``; whatever a row lacks is left out or shown as absent.
    """
    if not reward:
        return [Absent(what="No reward model.", why="reward.json is an empty list.")]
    cards: list[Block] = [
        Card(
            anchor="reward-accuracy",
            heading="How often does each reward model order held-out pairs as they were labelled?",
            name="reward",
            text=" ".join([*_lengths(reward), *_transfers(reward), *_ceilings(reward)]),
            figures=_forest(reward),
            tables=[_accuracies(reward), *_beyond(reward)],
        )
    ]
    if any("ece" in r or "nll" in r for r in reward):
        cards.append(
            Card(
                anchor="reward-calibration",
                heading="Do their probabilities mean what they say?",
                name="calibration",
                tables=[_calibrations(reward)],
            )
        )
    return cards


def _forest(reward: Sequence[Row]) -> list[Figures]:
    sets = list(dict.fromkeys(str(r.get("data") or "") for r in reward))
    rows = [
        (
            f"{r['name']}, {r['data']}" if len(sets) > 1 else str(r["name"]),
            r["accuracy"]["value"],
            r["accuracy"]["low"],
            r["accuracy"]["high"],
            COLOURS[(sets.index(str(r.get("data") or "")) if len(sets) > 1 else i) % len(COLOURS)],
        )
        for i, r in enumerate(reward)
        if r.get("accuracy") and r["accuracy"]["value"] is not None
    ]
    if not rows:
        return []
    alt = "Held-out accuracy: " + "; ".join(f"{label} {number(value)}" for label, value, *_ in rows)
    panel = draw_intervals(rows, xlabel="share of held-out pairs ordered as labelled", alt=alt, zero=0.5)
    return [Figures(panels=[panel], wide=True, caption="The line is chance.")]


def _accuracies(reward: Sequence[Row]) -> Table:
    compared = _keys(reward, "difference")
    rows = []
    for r in reward:
        accuracy = r.get("accuracy")
        row = [str(r["name"]), str(r.get("data") or ABSENT), number(r.get("folds")), estimate_text(accuracy)]
        row.append(number(accuracy["n"]) if accuracy else ABSENT)
        row += [_change((r.get("difference") or {}).get(name)) for name in compared]
        rows.append(row)
    columns = ["Reward model", "Data", "Folds", "Accuracy", "n", *(f"Minus {name}" for name in compared)]
    caption = "Penalties, weights and temperatures were chosen inside the training folds. Differences are paired." if compared else ""
    return Table(columns=columns, rows=rows, words=(1,), caption=caption)


def _beyond(reward: Sequence[Row]) -> list[Table]:
    """Other sets, length and ceiling, where any of them is known."""
    columns = {
        "Asked about another set": ("transfer", _elsewhere),
        "Prefers the longer": ("prefers_longer", lambda r: estimate_text(r.get("prefers_longer"))),
        "Share of what labels allow": ("attained_low", _share),
    }
    shown = {title: show for title, (name, show) in columns.items() if any(r.get(name) for r in reward)}
    if not shown:
        return []
    rows = [[str(r["name"]), str(r.get("data") or ABSENT), *(show(r) for show in shown.values())] for r in reward]
    caption = "Asked about another set: accuracy there, of the model of this whole set. " if "Asked about another set" in shown else ""
    if "Share of what labels allow" in shown:
        caption += "Share: (accuracy - 1/2) / (ceiling - 1/2), at the high and at the low end of the ceiling."
    return [Table(columns=["Reward model", "Data", *shown], rows=rows, words=(1,), caption=caption.strip())]


def _calibrations(reward: Sequence[Row]) -> Table:
    before, band = _any(reward, "ece_before"), _any(reward, "ece_if_calibrated")
    rows = []
    for r in reward:
        row = [str(r["name"]), str(r.get("data") or ABSENT)]
        row += [_plain(r.get("nll_before")), _plain(r.get("ece_before"))] if before else []
        row += [_plain(r.get("nll")), _plain(r.get("ece"))]
        row += [_band(r.get("ece_if_calibrated")), _inside(r)] if band else []
        rows.append(row)
    columns = ["Reward model", "Data", *(["NLL before", "ECE before"] if before else []), "NLL", "ECE"]
    columns += ["ECE if calibrated", "Inside"] if band else []
    caption = "ECE if calibrated: where 95 % of the ECEs lie for probabilities like these that are exactly right." if band else ""
    caption = f"Before and after a temperature fitted inside the training folds. {caption}" if before else caption
    return Table(columns=columns, rows=rows, words=(1,), caption=caption.strip())


def _lengths(reward: Sequence[Row]) -> list[str]:
    known = {str(r["data"]): r["longer_wins"] for r in reward if r.get("longer_wins") and r["longer_wins"]["value"] is not None}
    if not known:
        return []
    said = "; ".join(f"{data}: {estimate_text(e)}" for data, e in known.items())
    limits = [(e["low"], e["high"]) for e in known.values() if e["low"] is not None]
    opposite = any(low > 0.5 for low, _ in limits) and any(high < 0.5 for _, high in limits)
    return [f"Share of pairs whose longer reply was preferred, {said}." + (" The sets prefer opposite lengths." if opposite else "")]


def _transfers(reward: Sequence[Row]) -> list[str]:
    ways: dict[tuple[str, str], list[Row]] = {}
    for r in reward:
        for other, estimate in (r.get("transfer") or {}).items():
            ways.setdefault((str(r["data"]), other), []).append(estimate)
    said = []
    for (fitted, asked), found in ways.items():
        below = sum(e["high"] is not None and e["high"] < 0.5 for e in found)
        worst = min((e["value"] for e in found if e["value"] is not None), default=None)
        said.append(
            f"Fitted to {fitted} and asked about {asked}, {below} of {len(found)} models are below chance (lowest {number(worst)})."
        )
    return said


def _ceilings(reward: Sequence[Row]) -> list[str]:
    said = []
    for data in dict.fromkeys(str(r.get("data")) for r in reward if r.get("attained_low")):
        best = max((r for r in reward if str(r.get("data")) == data and r.get("attained_low")), key=lambda r: r["accuracy"]["value"] or 0)
        low, high = best["ceiling"]
        said.append(
            f"{data}: two annotators are said to agree with chance {number(best['agreement'])}, so the best possible accuracy lies between "
            f"{number(low)} and {number(high)}; {best['name']} reaches {_share(best)} of the signal."
        )
    return said


def _keys(reward: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(k for r in reward for k in (r.get(name) or {})))


def _any(reward: Sequence[Row], name: str) -> bool:
    return any(r.get(name) is not None for r in reward)


def _plain(value: object) -> str:
    return estimate_text(value) if isinstance(value, Mapping) else number(value if isinstance(value, int | float) else None)


def _change(estimate: Row | None) -> str:
    return f"{signed(estimate['value'])} {between(estimate)}".strip() if estimate else ABSENT


def _share(row: Row) -> str:
    low, high = row.get("attained_low"), row.get("attained_high")
    return f"{estimate_text(low)} to {estimate_text(high)}" if low and high else ABSENT


def _elsewhere(row: Row) -> str:
    found = row.get("transfer") or {}
    return "; ".join(f"{name} {estimate_text(estimate)}" for name, estimate in found.items()) or ABSENT


def _band(ends: Sequence[float] | None) -> str:
    return f"{number(ends[0])} to {number(ends[1])}" if ends else ABSENT


def _inside(row: Row) -> str:
    ece, band = row.get("ece"), row.get("ece_if_calibrated")
    if not isinstance(ece, Mapping) or ece.get("value") is None or not band:
        return ABSENT
    return "yes" if ece["value"] <= band[1] else "no, above"
