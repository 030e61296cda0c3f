"""Writes a run's report: its pages, the same as JSON, the same as Markdown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueup.core.rng import Key
from trueup.mismatch.verdict import MismatchSettings
from trueup.report.assemble import report_data
from trueup.report.load import load_run
from trueup.report.page import render_html, render_markdown
from trueup.report.samples import choose_samples
from trueup.report.site import INDEX, build_site, one_page
from trueup.report.what_to_do import named_in
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
    """Write ``report/index.html`` and the pages beside it, ``report.json`` and ``report.md``, each whole or not at all, over earlier ones.

    Args:
        run_dir: the run folder.
        key: random stream of intervals and of the choice of replies to show; the same key gives the same bytes.
        settings: thresholds of the diagnoses; the defaults if None.

    Raises:
        UserError: the folder is no run, holds nothing to report yet, is damaged, or may not be written.
    """
    return report_one(run_dir, key=key, settings=settings)[0]


def report_one(run_dir: Path, *, key: Key, settings: MismatchSettings | None = None) -> tuple[ReportPaths, dict[str, Any]]:
    """`write_report`, and the content of its report.json."""
    found = load_run(run_dir, key, settings)
    data = report_data(found)
    named = {sample for d in found.diagnoses for sample in d.samples} | named_in(data)
    replies = choose_samples(found.records, limit=SHOWN_REPLIES, key=key / "samples", named=named, beside=found.named)
    document = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    site = build_site(data, replies)
    pages = {name: render_html(page) for name, page in site.items()}
    folder = Run(run_dir).report_dir
    for name, html in pages.items():
        if name != INDEX:
            write_text(folder / name, html)
    return write_document(folder, document, render_markdown(one_page(site)), pages[INDEX]), data


def write_document(folder: Path, document: str, markdown: str, html: str) -> ReportPaths:
    """Write the three forms of a report; the page comes last, so that whoever sees it finds the numbers beside it."""
    paths = ReportPaths(html=folder / "index.html", json=folder / "report.json", markdown=folder / "report.md")
    write_text(paths.json, document + "\n")
    write_text(paths.markdown, markdown)
    write_text(paths.html, html)
    return paths
