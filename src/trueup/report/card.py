"""The RM card: what was found of reward models, as a page, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trueup.mismatch.reward_model.card import QUESTIONS, Examination
from trueup.mismatch.reward_model.question import Question
from trueup.report.assemble import finite
from trueup.report.blocks import Answer, Card, Chip, Page, Section, Table
from trueup.report.card_figures import card_figures
from trueup.report.page import render_markdown, render_template
from trueup.report.text import estimate_text, plural, title
from trueup.report.write import ReportPaths, write_document
from trueup.stats.estimate import Estimate

SCHEMA_VERSION = 1


def write_card(
    folder: Path, found: Examination, facts: Mapping[str, Any], reports: Mapping[str, Mapping[str, str]] | None = None
) -> ReportPaths:
    """Write ``index.html``, ``report.json`` and ``report.md``.

    Args:
        folder: where to.
        found: the examination.
        facts: what made it: models and data with their hashes, versions, date.
        reports: what is stated of each model.
    """
    reports = reports or {}
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "reward_model_card",
        **found.to_dict(),
        "reports": dict(reports),
        "facts": dict(facts),
    }
    page = card_page(found, facts, reports)
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    return write_document(folder, text, render_markdown(page), render_template("card.html", page))


def card_page(found: Examination, facts: Mapping[str, Any], reports: Mapping[str, Mapping[str, str]]) -> Page:
    """The card as blocks."""
    data = found.data
    meta = [plural(data["items"], "item"), plural(data["prompts"], "prompt"), plural(data["pairs"], "pair"), plural(data["ties"], "tie")]
    names = list(found.models)
    return Page(
        title=names[0] if len(names) == 1 else f"{len(names)} reward models",
        meta=meta,
        # alarms first; questions keep their order otherwise
        answers=sorted((_answer(found, q.name) for q in QUESTIONS if _asked(found, q.name)), key=lambda a: a.tone != "alarm"),
        headline=None,
        sections=[
            *[_section(found, q) for q in QUESTIONS if _asked(found, q.name)],
            *([_differences(found)] if found.differences else []),
            *_reports(reports),
            *_not_answered(found),
        ],
        samples=None,
        facts=[(str(k), str(v)) for k, v in facts.items()],
    )


def _asked(found: Examination, question: str) -> bool:
    return any(d.name == question and d.verdict != "not enough data" for d in found.diagnoses)


def _answer(found: Examination, question: str) -> Answer:
    of = [d for d in found.diagnoses if d.name == question]
    alarmed = [d for d in of if d.verdict == "alarm"]
    if len(of) == 1:
        return Answer(ask=of[0].question, word=of[0].verdict, tone="alarm" if alarmed else "quiet", sentence=of[0].rule)
    word = f"{len(alarmed)} of {len(of)} alarm" if alarmed else "none alarms"
    sentence = ", ".join(d.arm for d in alarmed) or "No model shows this flaw."
    return Answer(ask=of[0].question, word=word, tone="alarm" if alarmed else "quiet", sentence=sentence)


def _section(found: Examination, question: Question) -> Section:
    of = [d for d in found.diagnoses if d.name == question.name]
    names = list(dict.fromkeys(e.name for d in of for e in d.estimates))
    by_model = {d.arm: {e.name: e for e in d.estimates} for d in of}
    rows = [[title(name), *[_text(by_model[m].get(name)) for m in found.models]] for name in names]
    tables = [Table(columns=["", *found.models], rows=rows)] if rows else []
    chips = [Chip(who=d.arm, word=d.verdict, rule=d.rule) for d in of]
    figures = card_figures(question.name, of)
    card = Card(anchor=f"{question.name}-card", heading=question.ask, verdicts=chips, figures=figures, tables=tables)
    return Section(anchor=question.name, title=question.title, lede=question.lede, blocks=[card])


def _not_answered(found: Examination) -> list[Section]:
    """The questions that no model's evidence answers, and what they need."""
    rows = [
        [q.title, q.ask, "; ".join(dict.fromkeys(d.rule for d in found.diagnoses if d.name == q.name))]
        for q in QUESTIONS
        if not _asked(found, q.name)
    ]
    if not rows:
        return []
    table = Table(columns=["", "Question", "Why not"], rows=rows, words=(1, 2))
    card = Card(anchor="unanswered-card", heading="What was not asked?", tables=[table])
    return [Section(anchor="unanswered", title="Not answered", lede="Questions that lack their evidence here.", blocks=[card])]


def _differences(found: Examination) -> Section:
    rows = [[e.name, _text(e), str(e.n)] for e in found.differences]
    table = Table(columns=["", "Accuracy difference", "Prompts"], rows=rows)
    lede = f"Accuracy of each model minus that of {found.models[0]}, on the same pairs; the interval resamples prompts."
    card = Card(anchor="differences-card", heading="Which is more accurate?", tables=[table])
    return Section(anchor="differences", title="Side by side", lede=lede, blocks=[card])


def _reports(reports: Mapping[str, Mapping[str, str]]) -> list[Section]:
    """The Reward Report of every model, side by side."""
    if not reports:
        return []
    names = list(dict.fromkeys(n for said in reports.values() for n in said))
    table = Table(columns=["", *reports], rows=[[name, *[said.get(name, "not stated") for said in reports.values()]] for name in names])
    lede = "What the makers of each model state of it, and what its folder shows."
    card = Card(anchor="report-card", heading="What was it made from, and for what?", tables=[table])
    return [Section(anchor="report", title="Reward Report", lede=lede, blocks=[card])]


def _text(estimate: Estimate | None) -> str:
    return estimate_text(None if estimate is None else estimate.to_dict())


def facts_of(models: Sequence[Mapping[str, Any]], data: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> dict[str, Any]:
    """What made a card, as names and values."""
    found: dict[str, Any] = {}
    for i, model in enumerate(models, 1):
        found[f"model {i}"] = " · ".join(f"{k} {v}" for k, v in model.items())
    for i, source in enumerate(data, 1):
        found[f"data {i}"] = " · ".join(f"{k} {v}" for k, v in source.items())
    return {**found, **more}
