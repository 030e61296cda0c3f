"""One page about which part changes the outcome: reward model, optimizer or evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trueup.mismatch.isolation import BASELINE, FACTORS, Cell, Change, Isolation, Reading
from trueup.report.assemble import finite
from trueup.report.blocks import Absent, Answer, Block, Card, Figures, Page, Section, Table
from trueup.report.page import render_html, render_markdown
from trueup.report.panels import draw_intervals
from trueup.report.text import between, estimate_text, number, plural, signed, title
from trueup.report.write import ReportPaths, write_document
from trueup.stats.estimate import Estimate

SCHEMA_VERSION = 1
COLOURS = dict(zip(FACTORS, ("first", "third", "fourth"), strict=True))


def write_isolation(
    folder: Path, found: Isolation, *, name: str, seed: int, readings: Mapping[str, Reading], told: Mapping[str, str], prompts: int
) -> ReportPaths:
    """Write ``index.html``, ``report.json`` and ``report.md``.

    Args:
        folder: where to.
        found: outcomes and attributions.
        name: of the run.
        seed: of the run.
        readings: evaluations by name.
        told: alternative -> what it changes.
        prompts: how many test prompts stand behind it.
    """
    page = Page(
        title=f"{name}: which part did it?",
        meta=[f"seed {seed}", plural(len(found.outcomes), "cell"), plural(prompts, "test prompt")],
        answers=[_answer(c, full=bool(found.shapley)) for c in (found.shapley or found.one_at_a_time)[:3]],
        headline=None,
        sections=[_attribution(found), _outcomes(found, readings)],
        samples=None,
        facts=[(n, what) for n, what in told.items()],
    )
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "seed": seed,
        "evaluations": {n: {"column": r.column, "prompts": r.prompts, "variant": r.variant} for n, r in readings.items()},
        "alternatives": dict(told),
        **found.to_dict(),
    }
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    return write_document(folder, text, render_markdown(page), render_html(page))


def label(cell: Cell) -> str:
    """What is exchanged, in words."""
    return ", ".join(f"{title(f).lower()} {n}" for f, n in zip(FACTORS, cell, strict=True) if n != BASELINE) or "baseline"


def _answer(change: Change, *, full: bool) -> Answer:
    ask = f"What changes with {label(change.cell)}?"
    best = max(change.shares, key=lambda n: change.shares[n].value or 0.0)
    share, effect = change.shares[best], change.effects[best]
    moved = f"The gain changes by {signed(change.total.value)} {between(change.total.to_dict())} SD of replies"
    if share.value is None:
        return Answer(ask=ask, word="Nothing shown", tone="plain", sentence=f"{moved}; no part's effect is beyond two standard errors.")
    how = "averaged over all orders of exchange" if full else "exchanged alone"
    said = f"{moved}; the {title(best).lower()}, {how}, makes {signed(effect.value)} {between(effect.to_dict())} of it."
    return Answer(ask=ask, word=f"{title(best)}: {number(100 * share.value, 0)} %", tone="note", sentence=said)


def _attribution(found: Isolation) -> Section:
    blocks: list[Block] = []
    if found.shapley:
        blocks += [_card(c, f"shapley-{i}", "All exchanged together") for i, c in enumerate(found.shapley)]
    else:
        why = "That needs every reward model trained with every optimizer, under two or more parts: set grid: true."
        blocks.append(Absent(what="No Shapley attribution.", why=why))
    blocks += [_card(c, f"single-{i}", "One at a time") for i, c in enumerate(found.one_at_a_time)]
    lede = (
        "Outcome: what was gained between the first and the last checkpoint, in standard deviations of the replies before training. One at "
        "a time: a part exchanged, the others as in the baseline; interactions are nobody's. All exchanged together: each part's effect "
        "averaged over all orders (Shapley), adding up to the whole change. A share leaves out what is not beyond two standard errors."
    )
    return Section(anchor="attribution", title="Which part did it", lede=lede, blocks=blocks)


def _card(change: Change, anchor: str, how: str) -> Card:
    rows = [(title(n), e.value, e.low, e.high, COLOURS[n]) for n, e in change.effects.items()]
    rows.append(("all", change.total.value, change.total.low, change.total.high, "ink"))
    alt = f"{how}: " + "; ".join(f"{n} {signed(v)}" for n, v, *_ in rows)
    table = [[title(n), _signed(e), _percent(change.shares[n]), number(e.n)] for n, e in change.effects.items()]
    table.append(["All", _signed(change.total), "", number(change.total.n)])
    return Card(
        anchor=anchor,
        heading=f"{how}: {label(change.cell)}",
        figures=[Figures(panels=[draw_intervals(rows, xlabel="change of the gain (SD of replies)", alt=alt)], wide=True)],
        tables=[Table(columns=["Part", "Effect", "Share", "Prompts"], rows=table)],
    )


def _outcomes(found: Isolation, readings: Mapping[str, Reading]) -> Section:
    rows = [[*(_cell_words(cell)), estimate_text(e.to_dict()), number(e.n)] for cell, e in found.outcomes.items()]
    table = Table(columns=["Reward model", "Optimizer", "Evaluation", "Gain (SD of replies)", "Prompts"], rows=rows, words=(1, 2))
    read = [[n, r.column, r.prompts or "all", r.variant or "plain samples"] for n, r in readings.items()]
    kinds = Table(columns=["Evaluation", "Column", "Prompts that match", "Variant"], rows=read, words=(1, 2, 3))
    return Section(
        anchor="outcomes",
        title="Outcomes",
        lede="Every combination that was run. Brackets resample prompts; another seed would train other policies.",
        blocks=[Card(anchor="cells", heading="What was gained in each?", tables=[table, kinds])],
    )


def _cell_words(cell: Cell) -> Sequence[str]:
    return list(cell)


def _signed(e: Estimate) -> str:
    return f"{signed(e.value)} {between(e.to_dict())}".strip()


def _percent(e: Estimate) -> str:
    if e.value is None:
        return "–"
    inside = "" if e.low is None or e.high is None else f" [{number(100 * e.low, 0)}, {number(100 * e.high, 0)}]"
    return f"{number(100 * e.value, 0)} %{inside}"


def plain(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Changes for a program that reads standard output."""
    found: list[dict[str, Any]] = finite([c.to_dict() for c in changes])
    return found
