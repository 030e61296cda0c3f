"""Writes a run's report: one page, the same as JSON, the same as Markdown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trueup.core.rng import Key
from trueup.mismatch.verdict import MismatchSettings
from trueup.report.assemble import report_data
from trueup.report.load import load_run
from trueup.report.page import render_html, render_markdown
from trueup.report.samples import choose_samples
from trueup.report.sections import build_page
from trueup.store.atomic import write_text
from trueup.store.run import Run

SHOWN_REPLIES = 600


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where a report was written."""

    html: Path
    json: Path
    markdown: Path


def write_report(run_dir: Path, *, key: Key, settings: MismatchSettings | None = None) -> ReportPaths:
    """Write ``report/index.html``, ``report.json`` and ``report.md`` of a run, each whole or not at all; earlier ones are replaced.

    Args:
        run_dir: the run folder.
        key: random stream of intervals and of the choice of replies to show; the same key gives the same bytes.
        settings: thresholds of the diagnoses; the defaults if None.

    Raises:
        UserError: the folder is no run, holds nothing to report yet, is damaged, or may not be written.
    """
    found = load_run(run_dir, key, settings)
    data = report_data(found)
    page = build_page(data, choose_samples(found.records, limit=SHOWN_REPLIES, key=key / "samples"))
    folder = Run(run_dir).report_dir
    paths = ReportPaths(html=folder / "index.html", json=folder / "report.json", markdown=folder / "report.md")
    # The page comes last: whoever sees it finds the numbers beside it.
    write_text(paths.json, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(paths.markdown, render_markdown(page))
    write_text(paths.html, render_html(page))
    return paths
