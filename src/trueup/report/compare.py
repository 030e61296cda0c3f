"""One page about ways to use one reward: gold against KL, gold against cost, and what each reaches at equal budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueup.core.rng import Key
from trueup.mismatch.panel import METHOD
from trueup.mismatch.policy_evaluation.equal_budget import COST, KL, Compared, MethodPath
from trueup.report.assemble import finite
from trueup.report.blocks import Answer, Card, Figures, Page, Section, Table
from trueup.report.page import render_html, render_markdown
from trueup.report.panels import Line, Panel, arm_colours, draw
from trueup.report.text import between, estimate_text, number, signed
from trueup.report.write import ReportPaths, write_document
from trueup.stats.bootstrap import cluster_weights, interval
from trueup.stats.estimate import Estimate

SCHEMA_VERSION = 1
NOT_REACHED = "not reached"
AXES = {KL: ("KL from the SFT policy", "nats"), COST: ("cost", "core-hours")}


def write_comparison(folder: Path, compared: Compared, key: Key) -> ReportPaths:
    """Write ``index.html``, ``report.json`` and ``report.md``.

    Args:
        folder: where to.
        compared: what is shown.
        key: random stream of the intervals along paths.
    """
    page = _page(compared, key)
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": compared.name,
        "seed": compared.seed,
        "against": compared.against,
        "methods": [_points(compared, p, key) for p in compared.paths],
        "at_budget": [c.to_dict() for c in compared.found],
    }
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    return write_document(folder, text, render_markdown(page), render_html(page))


def _page(compared: Compared, key: Key) -> Page:
    columns = list(dict.fromkeys(c.column for c in compared.found))
    first = "gold" if "gold" in columns else columns[0]
    prompts = next(c.value.n for c in compared.found)
    return Page(
        title=f"{compared.name}: ways to use one reward",
        meta=[f"seed {compared.seed}", f"{len(compared.paths)} methods", f"{prompts} prompts"],
        answers=[_answer(compared, axis, first) for axis in AXES],
        headline=_curves(compared, first, key),
        sections=[
            Section(anchor=axis, title=f"At equal {AXES[axis][0]}", lede=_LEDES[axis], blocks=[_card(compared, axis, c) for c in columns])
            for axis in AXES
        ],
        samples=None,
        facts=[(p.arm, f"{compared.kinds[p.arm]}; {len(p.steps)} points; {number(_plain(p.cost[-1]))} core-hours") for p in compared.paths],
    )


_LEDES = {
    KL: "Each method on its own path, where its mean KL first reaches the budget; a path is not extended beyond its ends. Brackets "
    "are 95 % intervals over prompts, the same prompts for all. Of best-of-n only a bound of KL is known, and the bound is used.",
    COST: "Core-hours: seconds times threads. Of an optimizer, its training up to a checkpoint, sampling and refits included; of a "
    "decoder, answering all test prompts at one setting, without any training. A method that costs less in all keeps its last value.",
}


def _answer(compared: Compared, axis: str, column: str) -> Answer:
    """The best method at the largest budget that two or more reach."""
    name, unit = AXES[axis]
    ask = f"Which way gives most {column} at equal {name}?"
    cells = [c for c in compared.found if c.axis == axis and c.column == column and c.value.value is not None]
    shared = [b for b in {c.budget for c in cells} if sum(c.budget == b for c in cells) > 1]
    if not shared:
        return Answer(ask=ask, word="Not measured", tone="plain", sentence="No budget is reached by two methods.")
    budget = max(shared)
    ranked = sorted((c for c in cells if c.budget == budget), key=lambda c: -(c.value.value or 0.0))
    best = ranked[0]
    said = f"{best.arm} at {number(budget)} {unit}: {estimate_text(best.value.to_dict())}"
    if best.difference is None or best.difference.value is None:
        return Answer(ask=ask, word=best.arm, tone="plain", sentence=f"{said}; it is what the others are compared with.")
    shown = best.difference.excludes(0.0)
    gap = f"{signed(best.difference.value)} {between(best.difference.to_dict())} against {compared.against}"
    return Answer(
        ask=ask, word=best.arm, tone="quiet" if shown else "plain", sentence=f"{said}; {gap}" + ("." if shown else ", which covers 0.")
    )


def _curves(compared: Compared, column: str, key: Key) -> Figures:
    colours = arm_colours([p.arm for p in compared.paths])
    panels = []
    for axis, (name, unit) in AXES.items():
        lines = [
            Line(label=p.arm, x=x, y=points[column], low=points[f"{column}_low"], high=points[f"{column}_high"], colour=colours[p.arm],
                 dashed=p.arm in compared.decoders)
            for p in compared.paths
            for points in [_points(compared, p, key)["points"]]
            for x in [points[axis]]
            if any(v is not None for v in x)
        ]  # fmt: skip
        alt = f"{column} against {name}: " + ", ".join(line.label for line in lines)
        panels.append(draw(Panel(title=f"{column}, by {name}", alt=alt, xlabel=f"{name} ({unit})", ylabel=column, lines=lines)))
    return Figures(panels=panels, caption="Optimizers as full lines, decoders dashed; bands are 95 % intervals over prompts.")


def _card(compared: Compared, axis: str, column: str) -> Card:
    cells = [c for c in compared.found if c.axis == axis and c.column == column]
    budgets = list(dict.fromkeys(c.budget for c in cells))
    at = {(c.arm, c.budget): c for c in cells}
    arms = list(dict.fromkeys(c.arm for c in cells))
    unit = AXES[axis][1]
    heads = [f"{number(b)} {unit}" for b in budgets]
    rows = [[arm, compared.kinds[arm], *(_cell(at[arm, b].value.to_dict()) for b in budgets)] for arm in arms]
    gaps = [[arm, *(_gap(at[arm, b].difference) for b in budgets)] for arm in arms if arm != compared.against]
    tables = [Table(columns=["Method", "Kind", *heads], rows=rows, words=(1,))]
    if gaps:
        tables.append(Table(columns=[f"Less {compared.against}", *heads], rows=gaps, folded=f"Differences from {compared.against}"))
    return Card(anchor=f"{axis}-{column}", heading=column.replace("_", " ").capitalize(), tables=tables)


def _cell(value: Mapping[str, object]) -> str:
    return NOT_REACHED if value["value"] is None else estimate_text(value)


def _gap(difference: Estimate | None) -> str:
    if difference is None or difference.value is None:
        return "–"
    return f"{signed(difference.value)} {between(difference.to_dict())}"


def _points(compared: Compared, path: MethodPath, key: Key) -> dict[str, Any]:
    """A path's points with intervals over prompts."""
    points: dict[str, list[float | None]] = {
        KL: [None] * len(path.steps) if path.kl is None else [_plain(v) for v in path.kl.mean()],
        COST: [_plain(v) for v in path.cost],
    }
    for name, cells in path.values.items():
        weights = cluster_weights(len(cells.counts), 400, key)
        low, high = interval(cells.resampled(weights), len(cells.counts))
        points |= {name: path.means(name), f"{name}_low": [_plain(v) for v in low], f"{name}_high": [_plain(v) for v in high]}
    return {
        "method": path.arm,
        "kind": compared.kinds[path.arm],
        "decodes": path.arm in compared.decoders,
        "kl_is_bound": path.kl_is_bound,
        "steps": path.steps,
        "intervals": METHOD,
        "points": points,
    }


def _plain(value: float) -> float | None:
    return float(value) if value == value and abs(value) != float("inf") else None
