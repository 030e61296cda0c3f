"""A run's report as pages: a first one that answers, one a link with the evidence, one with replies; each leads to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trueup.report.answer import answers
from trueup.report.blocks import Asked, Block, Chip, Numbers, Overview, Page, Read, Section
from trueup.report.curves import headline
from trueup.report.diagnoses import Places, anchor, questions
from trueup.report.numbers import PLACES, number_blocks
from trueup.report.reading import reading_section
from trueup.report.samples import SampleTable
from trueup.report.sections import browser, build_page, facts, first_sections, learned, link_section, meta, reward_section
from trueup.report.text import plural

INDEX = "index.html"
REPLIES = "replies.html"
VERDICTS = "verdicts"
OPENING = 40
"""Characters of a reply that a link to it shows."""
_QUIET_LAST = {"alarm": 0, "worse": 0, "quiet": 1, "better": 1, "no difference shown": 1}


def build_site(data: Mapping[str, Any], table: SampleTable) -> dict[str, Page]:
    """File name -> page.

    Args:
        data: content of report.json.
        table: replies to show.
    """
    if not data["arms"]:
        return {INDEX: build_page(data)}
    places = _places(table)
    name, about = str(data["name"]), meta(data)
    pages = {INDEX: _first(data, places)}
    for link, (file, title) in PLACES.items():
        section = link_section(data, link, places)
        section = replace(section, blocks=[*number_blocks(data, link), *section.blocks])
        sections = [section, learned(data)] if link == "reward_policy" else [section]
        pages[file] = Page(
            title=f"{name}: {title[:1].lower()}{title[1:]}",
            meta=about,
            answers=[],
            headline=None,
            sections=sections,
            samples=None,
            facts=facts(data),
        )
    if table.rows:
        pages[REPLIES] = Page(
            title=f"{name}: replies", meta=about, answers=[], headline=None, sections=[], samples=browser(table, data), facts=facts(data)
        )
    labels = {INDEX: "First page", **dict(PLACES.values()), REPLIES: "Replies"}
    return {file: replace(page, others=[(labels[other], other) for other in pages if other != file]) for file, page in pages.items()}


def one_page(site: Mapping[str, Page]) -> Page:
    """All pages as one, for Markdown; nothing is drawn again."""
    first = site[INDEX]
    beside = [s for file, page in site.items() if file != INDEX for s in page.sections]
    kept = [s for s in first.sections if s.anchor != VERDICTS]
    return replace(first, sections=[*kept, *(replace(s, blocks=[b for b in s.blocks if not isinstance(b, Numbers)]) for s in beside)])


def _first(data: Mapping[str, Any], places: Places) -> Page:
    numbers, decision = first_sections(data, places)
    sections = [numbers, decision, _verdicts(data)]
    if data["reward"] is not None:
        sections.append(reward_section(data))
    if data["run"].get("audit"):
        sections.append(reading_section(data["run"]["audit"]))
    return Page(
        title=str(data["name"]),
        meta=meta(data),
        answers=answers(data),
        headline=headline(data),
        sections=sections,
        samples=None,
        facts=facts(data),
    )


def _verdicts(data: Mapping[str, Any]) -> Section:
    blocks: list[Block] = []
    for link, (file, title) in PLACES.items():
        rows = [
            Asked(
                question=group[0]["question"],
                href=f"{file}#{anchor(name)}",
                name=name,
                verdicts=[Chip(who=d["arm"], word=d["verdict"], rule=d["rule"]) for d in group],
            )
            for name, group in questions(data, link).items()
        ]
        if link == "reward_policy" and data["comparison"]["contrasts"]:
            chips = [Chip(who=f"{c['arm']} − {c['against']}", word=c["verdict"], rule=c["rule"]) for c in data["comparison"]["contrasts"]]
            rows.append(Asked(question="Did realigning help?", href=f"{file}#comparison", name="realignment", verdicts=chips))
        told = [r for r in rows if any(v.word in _QUIET_LAST for v in r.verdicts)]
        silent = [r for r in rows if r not in told]
        blocks.append(
            Overview(
                title=title,
                href=file,
                rows=sorted(told, key=lambda r: min(_QUIET_LAST.get(v.word, 2) for v in r.verdicts)),
                silent=silent,
                folded=f"{plural(len(silent), 'question')} that the records cannot answer",
            )
        )
    lede = "Every question, alarms first; each leads to its rule, numbers, figures and replies."
    return Section(anchor=VERDICTS, title="Verdicts", lede=lede, blocks=blocks)


def _places(table: SampleTable) -> Places:
    """Where each reply is shown, and how a link to it reads."""
    return {row["id"]: Read(label=_label(row), href=f"{REPLIES}#reply-{i}") for i, row in enumerate(table.rows)}


def _label(row: Mapping[str, Any]) -> str:
    words: Sequence[str] = str(row["reply"]).split()
    text = " ".join(words)
    opening = text if len(text) <= OPENING else text[:OPENING].rstrip() + " …"
    where = row["arm"] if row["step"] is None else f"{row['arm']} {row['step']}"
    return f"{where}: “{opening}”"
