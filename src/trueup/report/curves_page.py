"""The page of a training of which only curves are left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.curves_alone.questions import BEYOND, QUESTIONS, ask
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis
from trueup.report.assemble import finite
from trueup.report.blocks import Answer, Card, Chip, Figures, Page, Section, Table
from trueup.report.page import render_markdown, render_template
from trueup.report.panels import Line, Panel, draw
from trueup.report.text import estimate_text, number, plural, title
from trueup.report.write import ReportPaths, write_document
from trueup.store.curve_logs import CurveLog, read_logs
from trueup.store.curve_names import CURVES, Naming

SCHEMA_VERSION = 1
_FIGURES: Mapping[str, Sequence[tuple[str, str, str, str, str]]] = {
    "evaluation_falls": (),
    "reward_kl": (("sqrt_kl", "proxy", "√KL", "score", "proxy"),),
    "length_growth": (("step", "length_tokens", "step", "tokens", "first"), ("step", "proxy", "step", "score", "proxy")),
    "kl_spikes": (("step", "kl", "step", "KL (nats)", "first"),),
    "spread": (("step", "proxy_std", "step", "standard deviation", "proxy"), ("step", "zero_spread_share", "step", "share", "second")),
    "clipped": (("step", "clipped_share", "step", "share", "first"),),
}
"""Of a diagnosis: (x, y, label of x, label of y, colour) of each panel; that of evaluations has one a series."""


def audit_logs(
    logs: Sequence[str | Path],
    out: str | Path,
    *,
    key: Key,
    curves: Mapping[str, str] | None = None,
    settings: CurvesAlone | None = None,
    judged: Sequence[str] = (),
) -> tuple[ReportPaths, dict[str, Any]]:
    """Read logs, ask what curves alone can tell, and write ``index.html``, ``report.json`` and ``report.md``.

    Args:
        logs: files or folders, see `trueup.store.curve_logs.read_logs`.
        out: folder of the page.
        key: random stream of the intervals.
        curves: our curve to the name it has in the logs, where the table of names does not know it.
        settings: thresholds; the defaults if None.
        judged: evaluations that a log must have, since somebody said which side of them is better.

    Returns:
        Where the page is, and the content of report.json.

    Raises:
        UserError: a log cannot be read, holds no curve that is known, or no log has an evaluation that is to be judged; or the folder may
            not be written.
    """
    read = [log for path in logs for log in read_logs(path)]
    if not read:
        raise UserError("give --logs, a training's log file or folder.", where="audit")
    found = [(name, log, *log.curves(curves)) for name, log in zip(_names(read), read, strict=True)]
    known = {c.removeprefix("evaluations.") for *_, naming in found for c in naming.used if c.startswith("evaluations.")}
    for name in judged:
        if name not in known:
            raise UserError(
                f"no log has an evaluation '{name}'. There are: {', '.join(sorted(known)) or 'none'}.", where="--higher, --lower"
            )
    answers = [d for name, _, table, _ in found for d in ask(table, name, settings or CurvesAlone(), key / "logs" / name)]
    document = finite(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "curves",
            "logs": [_log(name, log, table, naming) for name, log, table, naming in found],
            "diagnoses": [d.to_dict() for d in answers],
            "beyond": [b._asdict() for b in BEYOND],
            "settings": (settings or CurvesAlone()).model_dump(),
        }
    )
    page = curves_page(document, answers)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return write_document(Path(out), text, render_markdown(page), render_template("curves.html", page)), document


def _names(logs: Sequence[CurveLog]) -> list[str]:
    """The logs' names, told apart by number where they are equal."""
    names = [log.name for log in logs]
    return [n if names.count(n) == 1 else f"{n} ({names[: i + 1].count(n)})" for i, n in enumerate(names)]


def _log(name: str, log: CurveLog, table: pd.DataFrame, naming: Naming) -> dict[str, Any]:
    return {
        "name": name,
        "source": str(log.source),
        "form": log.form,
        "steps": [int(log.table.index.min()), int(log.table.index.max())],
        "points": {str(c): int(table[c].notna().sum()) for c in table},
        "ends": {str(c): [float(known.iloc[0]), float(known.iloc[-1])] for c in table if len(known := table[c].dropna())},
        "notes": list(log.notes),
        **asdict(naming),
    }


def curves_page(document: Mapping[str, Any], answers: Sequence[Diagnosis]) -> Page:
    """The page as blocks.

    Args:
        document: content of report.json.
        answers: the diagnoses in it.
    """
    logs = document["logs"]
    points = sum(max(log["points"].values(), default=0) for log in logs)
    return Page(
        title=logs[0]["name"] if len(logs) == 1 else f"{len(logs)} logs",
        meta=[plural(len(logs), "log"), f"{points:,} logged steps", "curves alone: no replies, no truth"],
        answers=_sentences(answers),
        headline=None,
        sections=[_asked(answers), _beyond(), _read(logs)],
        samples=None,
        facts=[(log["name"], f"{log['form']} · {log['source']}") for log in logs],
    )


def _sentences(answers: Sequence[Diagnosis]) -> list[Answer]:
    alarms = [d for d in answers if d.verdict == "alarm"]
    told = list(dict.fromkeys(d.name for d in answers if d.verdict != "not enough data"))
    silent = list(dict.fromkeys(d.name for d in answers if d.name not in told))
    first = Answer(
        ask="What do the curves show?",
        word=plural(len(alarms), "alarm") if alarms else "no alarm",
        tone="alarm" if alarms else "quiet",
        sentence="; ".join(f"{d.arm}: {title(d.name).lower()}" for d in alarms)
        or f"{plural(len(told), 'question')} asked, none raises an alarm. This is no proof of health: see what curves cannot tell.",
    )
    unasked = f" Not asked for want of curves: {', '.join(title(n).lower() for n in silent)}." if silent else ""
    second = Answer(
        ask="Is the score over-optimised?",
        word="cannot be told",
        tone="plain",
        sentence="Curves of the score alone never tell. It takes gold, labels or evaluations of the replies." + unasked,
    )
    third = Answer(
        ask="Which checkpoint to keep?",
        word="cannot be told",
        tone="plain",
        sentence="Points of a curve are means over other prompts at every step. Audit the checkpoints on the same prompts.",
    )
    return [first, second, third]


def _asked(answers: Sequence[Diagnosis]) -> Section:
    cards = []
    for name, _ in QUESTIONS:
        of = [d for d in answers if d.name == name]
        rows = [[title(n), *[estimate_text(_estimate(d, n)) for d in of]] for n in dict.fromkeys(e.name for d in of for e in d.estimates)]
        table = [Table(columns=["", *[d.arm for d in of]], rows=rows)] if rows else []
        chips = [Chip(who=d.arm, word=d.verdict, rule=d.rule) for d in of]
        cards.append(Card(anchor=name, heading=of[0].question, name=name, verdicts=chips, figures=_figures(name, of), tables=table))
    lede = "What one curve can say of itself. Every answer states its rule and the numbers it saw."
    return Section(anchor="asked", title="What the curves tell", lede=lede, blocks=cards)


def _estimate(diagnosis: Diagnosis, name: str) -> dict[str, Any] | None:
    return next((e.to_dict() for e in diagnosis.estimates if e.name == name), None)


def _figures(name: str, of: Sequence[Diagnosis]) -> list[Figures]:
    panels = []
    for d in (d for d in of if d.series):
        wanted = _FIGURES[name]
        if name == "evaluation_falls":
            evaluated = [s for s in d.series if s.startswith("evaluations.")]
            wanted = [
                ("step", "proxy", "step", "score", "proxy"),
                *[("step", s, "step", s.removeprefix("evaluations."), "gold") for s in evaluated],
            ]
        for x, y, xlabel, ylabel, colour in wanted:
            if all(v is None for v in d.series[y]):
                continue
            line = Line(
                label="", x=d.series[x], y=d.series[y], colour=colour, line=x == "step", points=len(d.series[x]) <= 60 or x != "step"
            )
            panels.append(
                draw(Panel(title=f"{d.arm}: {y}", alt=f"{y} against {x} of {d.arm}.", xlabel=xlabel, ylabel=ylabel, lines=[line]))
            )
    return [Figures(panels=panels)] if panels else []


def _beyond() -> Section:
    table = Table(columns=["Question", "Why curves cannot tell", "What would"], rows=[list(b) for b in BEYOND], words=(1, 2))
    lede = "Absent answers are no good news."
    return Section(
        anchor="beyond",
        title="What they cannot tell",
        lede=lede,
        blocks=[Card(anchor="beyond-card", heading="What is missing?", tables=[table])],
    )


def _read(logs: Sequence[Mapping[str, Any]]) -> Section:
    cards = []
    for i, log in enumerate(logs):
        rows = [
            [curve, name, CURVES.get(curve, ""), str(log["points"][curve]), *[number(v) for v in log["ends"].get(curve, [None, None])]]
            for curve, name in log["used"].items()
        ]
        tables = [Table(columns=["Curve", "Logged as", "Meaning", "Points", "First", "Last"], rows=rows, words=(1, 2))]
        rest = [
            ("another name is read for it", [f"{n} ({c})" for n, c in log["passed"].items()]),
            ("known, of no use here", log["unused"]),
            ("unknown", log["unknown"]),
        ]
        others = [[why, ", ".join(names)] for why, names in rest if names]
        if others:
            tables.append(Table(columns=["Not read", "Names"], rows=others, words=(1,)))
        cards.append(Card(anchor=f"log-{i}", heading=log["name"], text="; ".join(log["notes"]), tables=tables))
    lede = "Names are mapped by one table; an unknown name is listed here and guessed at nowhere. --curve OURS=NAME says more."
    return Section(anchor="read", title="How the logs were read", lede=lede, blocks=cards)
