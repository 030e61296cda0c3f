"""Several runs on one page: a row a run, and their differences together. Here the unit is the run (such as a seed), not the prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.verdict import MismatchSettings
from trueup.report.assemble import SCHEMA_VERSION, finite
from trueup.report.blocks import Absent, Answer, Block, Card, Figures, Page, Section, Table
from trueup.report.numbers import numbers_of_runs
from trueup.report.page import render_html, render_markdown
from trueup.report.panels import draw_intervals
from trueup.report.text import between, estimate_text, number, plural, signed
from trueup.report.write import ReportPaths, report_one, write_document
from trueup.stats.estimate import Estimate

Data = Mapping[str, Any]


def write_reports(run_dirs: Sequence[Path], out: Path, *, key: Key, settings: MismatchSettings | None = None) -> ReportPaths:
    """Write the report of every run into its own folder, and one page about all of them into ``out``.

    Args:
        run_dirs: two or more run folders.
        out: folder of the common page; ``index.html``, ``report.json`` and ``report.md`` are put there.
        key: random stream; the same for every run, so that its own report does not depend on the others.
        settings: thresholds of the diagnoses; the defaults if None.

    Raises:
        UserError: fewer than two different runs, or any of them cannot be reported.
    """
    places = [p.resolve() for p in run_dirs]
    if len(set(places)) < max(2, len(places)):
        raise UserError("a common page needs two or more different run folders.", where=", ".join(map(str, run_dirs)))
    data = [report_one(place, key=key, settings=settings)[1] for place in places]
    names = _names(data, places)
    together = [e for e in (over_runs(data, roles) for roles in _PAIRS) if e is not None]
    document = {
        "schema_version": SCHEMA_VERSION,
        "runs": [
            {"name": n, **{k: d[k] for k in ("main_arm", "headlines", "decision", "comparison", "diagnoses", "run")}}
            for n, d in zip(names, data, strict=True)
        ],
        "over_runs": [e.to_dict() for e in together],
    }
    page = _page(names, data, together)
    return write_document(
        out, json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False), render_markdown(page), render_html(page)
    )


_PAIRS = (("realigned", "random refit"), ("realigned", "static"), ("random refit", "static"))


def over_runs(data: Sequence[Data], roles: tuple[str, str]) -> Estimate | None:
    """Mean over runs of the deciding difference in gold between arms of those roles; Student's t interval, n runs.

    Args:
        data: contents of report.json.
        roles: of the arm and of what it is compared with.

    Returns:
        None where fewer than two runs have it.
    """
    found = [_difference(d, roles) for d in data]
    values = np.array([e["value"] for e in found if e is not None and e["value"] is not None], dtype=float)
    n = len(values)
    if n < 2:
        return None
    mean, half = float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    name = f"{roles[0]} - {roles[1]}"
    return Estimate(
        name=name, value=mean, low=mean - half, high=mean + half, n=n, unit="score", method="Student t over runs", n_missing=len(data) - n
    )


def _difference(data: Data, roles: tuple[str, str]) -> Mapping[str, Any] | None:
    comparison = data["comparison"]
    for c in comparison["contrasts"]:
        if tuple(c["roles"]) == roles:
            return next((e for e in c["estimates"] if e["name"] == comparison["decided_by"]), None)
    return None


def _names(data: Sequence[Data], places: Sequence[Path]) -> list[str]:
    """Run names, with the folder's where two runs have the same."""
    names = [str(d["name"]) for d in data]
    return [n if names.count(n) == 1 else f"{n} ({p.name})" for n, p in zip(names, places, strict=True)]


def _page(names: Sequence[str], data: Sequence[Data], together: Sequence[Estimate]) -> Page:
    blocks: list[Block] = [_verdicts(names, data)]
    blocks += (
        [_differences(names, data, together)] if together else [Absent(what="No comparison of arms.", why="Fewer than two runs have one.")]
    )
    section = Section(anchor="runs", title="Runs", lede="Each run's own page is in its folder.", blocks=blocks)
    numbers = Section(
        anchor="numbers",
        title="Three links, three numbers",
        lede="Of each run's main arm. 1 means that the two parts of a link agree; what stands for the truth is the basis.",
        blocks=numbers_of_runs(names, data),
    )
    meta = [plural(len(data), "run"), "seeds " + ", ".join(str(d["run"].get("seed", "unknown")) for d in data)]
    return Page(
        title=plural(len(data), "run"),
        meta=meta,
        answers=_answers(data, together),
        headline=None,
        sections=[section, numbers] if numbers.blocks else [section],
        samples=None,
        facts=_facts(names, data),
    )


def _answers(data: Sequence[Data], together: Sequence[Estimate]) -> list[Answer]:
    judged = [v for d in data if (v := _verdict(d)) in ("alarm", "quiet")]
    falls = Answer(
        ask="In how many runs does the reward climb while the truth falls?",
        word=f"{judged.count('alarm')} of {len(judged)}" if judged else "Cannot be said",
        tone="alarm" if judged.count("alarm") else "quiet" if judged else "plain",
        sentence="Main arm of each run, by its over-optimisation diagnosis."
        + (f" {plural(len(data) - len(judged), 'run')} had not enough data." if len(judged) < len(data) else ""),
    )
    first = next((e for e in together if e.name == "realigned - random refit"), None)
    ask = "Over runs, does realignment differ from a random refit?"
    if first is None or first.value is None:
        return [falls, Answer(ask=ask, word="Not measured", tone="plain", sentence="Fewer than two runs have both arms with gold.")]
    shown = first.excludes(0.0)
    word = ("Yes, better" if first.value > 0 else "Yes, worse") if shown else "No difference shown"
    said = f"Mean difference in gold {signed(first.value)} {between(first.to_dict())} over {first.n} runs" + (
        "." if shown else ", which covers 0."
    )
    return [falls, Answer(ask=ask, word=word, tone=("quiet" if first.value > 0 else "alarm") if shown else "plain", sentence=said)]


def _verdict(data: Data) -> str | None:
    return next((str(d["verdict"]) for d in data["diagnoses"] if d["name"] == "over_optimisation" and d["arm"] == data["main_arm"]), None)


def _verdicts(names: Sequence[str], data: Sequence[Data]) -> Card:
    rows = []
    for name, d in zip(names, data, strict=True):
        found = next((x for x in d["diagnoses"] if x["name"] == "over_optimisation" and x["arm"] == d["main_arm"]), None)
        estimates = {e["name"]: e for e in found["estimates"]} if found else {}
        decision = d["decision"] or {}
        rows.append(
            [
                name,
                str(d["main_arm"] or "–"),
                str(found["verdict"]) if found else "–",
                estimate_text(estimates.get("gain")),
                estimate_text(estimates.get("drop")),
                number(decision.get("keep_step")),
                "–" if not decision else "yes" if decision["stop"] else "no",
            ]
        )
    columns = ["Run", "Main arm", "Over-optimisation", "Gain of gold", "Drop of gold", "Keep step", "Stop"]
    return Card(
        anchor="verdicts", heading="What does each run say of its main arm?", tables=[Table(columns=columns, rows=rows, words=(1, 2, 6))]
    )


def _differences(names: Sequence[str], data: Sequence[Data], together: Sequence[Estimate]) -> Card:
    rows, figures = [], []
    for estimate in together:
        roles = next(p for p in _PAIRS if f"{p[0]} - {p[1]}" == estimate.name)
        found = [(n, e) for n, d in zip(names, data, strict=True) if (e := _difference(d, roles)) is not None]
        label = f"{roles[0]} − {roles[1]}"
        forest = [(n, e["value"], e["low"], e["high"], "second") for n, e in found]
        forest.append(("all runs", estimate.value, estimate.low, estimate.high, "third"))
        alt = f"{label}: difference in gold of each run and over all runs."
        figures.append(draw_intervals(forest, xlabel=f"{label}, gold (score)", alt=alt))
        rows += [[label, n, estimate_text(e), f"{e['n']} prompts"] for n, e in found]
        rows.append([label, "all runs", estimate_text(estimate.to_dict()), plural(estimate.n, "run")])
    caption = "Each run's interval is over its prompts; that of all runs is Student's t over runs, which is the one that seeds are in."
    return Card(
        anchor="differences",
        heading="How do the arms differ, over runs?",
        figures=[Figures(panels=figures, caption=caption)],
        tables=[Table(columns=["Arms", "Run", "Difference in gold", "n"], rows=rows, words=(1,))],
    )


def _facts(names: Sequence[str], data: Sequence[Data]) -> list[tuple[str, str]]:
    keys = (("seed", "seed"), ("config_digest", "configuration"), ("commit", "commit"), ("device", "device"))
    return [
        (name, ", ".join(f"{label} {d['run'][key]}" for key, label in keys if d["run"].get(key) is not None) or "–")
        for name, d in zip(names, data, strict=True)
    ]
