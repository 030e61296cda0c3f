"""Pages as text: HTML through jinja2 with everything escaped, Markdown by hand."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from trueup.report.blocks import Absent, Block, Card, Numbers, Page, Table, Todo
from trueup.report.text import number


def render_html(page: Page) -> str:
    """One self-contained page: no request leaves it, and its policy lets only its own script run.

    Whatever a model, a prompt or a file wrote is escaped; only our own drawings are markup.
    """
    return render_template("page.html", page)


def render_template(name: str, page: Page) -> str:
    """A page under one of our templates; everything in it is escaped."""
    environment = _environment()
    script, _, _ = environment.loader.get_source(environment, "browse.js")  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(name).render(page=page, script=Markup(script), script_hash=digest)


def render_markdown(page: Page) -> str:
    """The page without its figures and replies."""
    lines = [f"# {_md(page.title)}", "", _md(" · ".join(page.meta)), ""]
    lines += [f"- **{_md(a.word)}** ({_md(a.ask)}) {_md(a.sentence)}" for a in page.answers]
    for section in page.sections:
        lines += ["", f"## {_md(section.title)}", "", _md(section.lede)]
        for block in section.blocks:
            lines += _markdown(block)
    lines += ["", "## Run", ""]
    lines += [f"- {_md(name)}: {_md(value)}" for name, value in page.facts]
    return "\n".join(lines) + "\n"


def _markdown(block: Block) -> list[str]:
    if isinstance(block, Absent):
        return ["", f"*{_md(block.what)}* {_md(block.why)}"]
    if isinstance(block, Table):
        return _markdown_table(block)
    if isinstance(block, Card):
        lines = ["", f"### {_md(block.heading)}"]
        lines += ["", _md(block.text)] if block.text else []
        lines += [""] if block.verdicts else []
        lines += [f"- {_md(v.who)}: **{_md(v.word)}** ({_md(v.rule)})" for v in block.verdicts]
        return lines + [line for table in block.tables for line in _markdown_table(table)]
    if isinstance(block, Todo):
        return ["", f"### {_md(block.title)}", "", *(f"{i}. **{_md(s.word)}.** {_md(s.why)}" for i, s in enumerate(block.steps, 1))]
    if isinstance(block, Numbers):
        rows = [[m.who, m.text or "no number", m.basis, m.why] for m in block.meters]
        table = Table(columns=["Arm", block.name, "Basis", "Seen"], rows=rows, words=(2, 3))
        return ["", f"### {_md(block.title)}", "", _md(block.ask), *_markdown_table(table)]
    return []


def _markdown_table(table: Table) -> list[str]:
    lines = ["", _md(table.caption), ""] if table.caption else [""]
    lines.append("| " + " | ".join(_md(c) for c in table.columns) + " |")
    lines.append("|" + "|".join("---" if i == 0 or i in table.words else "---:" for i in range(len(table.columns))) + "|")
    lines += ["| " + " | ".join(_md(c) for c in row) + " |" for row in table.rows]
    return lines


def _md(text: str) -> str:
    """Text that Markdown and the HTML it becomes take literally."""
    return re.sub(r"([\\`*|\[\]<>])", r"\\\1", " ".join(text.split()))


def _dim(text: str) -> Markup:
    """A cell with its interval set back."""
    return Markup(re.sub(r"(\[[^\[\]]*\])", r'<span class="ci">\1</span>', str(escape(text))))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trueup.report", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: Sequence[tuple[str, object]] = (("number", number), ("dim", _dim))
    for name, function in filters:
        environment.filters[name] = function
    return environment
