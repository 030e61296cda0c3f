"""Makes ``docs/papers.md`` from the headers of the files: method, file, source, what differs.

A file's header is its docstring: the first line names the method and its sources in brackets; numbered points under
``Deviations:`` (or another line that ends with a colon) say what differs; citations may also stand further down.

    python docs/build.py            writes the page
    python docs/build.py --check    exit status 1 where the page is not current
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "trueup"
PAGE = ROOT / "docs" / "papers.md"
ROOMS = {
    "Optimizers": "optimizers",
    "Guided decoding": "decoding/methods",
    "Reading and searching trees": "decoding",
    "Objectives of reward models": "rewards/objectives",
    "Dense objectives of reward models": "rewards/dense",
    "Rewards": "rewards",
    "What a policy is optimised against": "rewards/kinds",
    "Checks of replies": "rewards/verifiable",
    "Inverse alignment": "realign",
    "Selection rules": "realign/select",
    "Diagnoses: reward model and policy": "mismatch/reward_policy",
    "Diagnoses: reward model and evaluation": "mismatch/reward_evaluation",
    "Diagnoses: policy and evaluation": "mismatch/policy_evaluation",
    "Examination of reward models": "mismatch/reward_model",
    "Changed copies of replies": "evaluation",
    "Data": "data",
    "Tensor mathematics": "ops",
    "Statistics": "stats",
    "Models": "models",
    "Worlds": "sandbox",
    "Report": "report",
}
YEAR = r"\b(?:19|20)\d\d\b"
PAPER = rf"(?:{YEAR}|arXiv)"
AUTHORS = r"[A-Z][\w.]+(?:(?:,| and| &| et al\.?)+ ?[A-Z]?[\w.]*)*"
PLACE = r"(?:, (?:[\"“][^\"”]+[\"”]|arXiv[: ][\d.]+|eq\. [\d-]+|section [\d.]+|appendix \w+))*"
CITED = re.compile(rf"\([^()]*{PAPER}[^()]*\)|{AUTHORS} \({YEAR}{PLACE}\)|{AUTHORS} {YEAR}{PLACE}")
"""``(Schulman et al. 2017, arXiv:1707.06347)``, ``Hesterberg (2015, "Title", section 4.3)``, ``Murphy 1973``."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    file: str
    method: str
    sources: tuple[str, ...]
    points: tuple[str, ...]
    """Numbered deviations or choices."""
    points_are: str
    """The line above them."""


def header(path: Path) -> Header:
    """Reads the docstring of a module, and the citations in the docstrings of what it defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    first = " ".join(text.split("\n\n")[0].split())
    sources = list(dict.fromkeys(cited(text)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            sources += [c for c in cited(ast.get_docstring(node) or "") if c not in sources]
    title, points = numbered(text)
    return Header(path.relative_to(SRC).as_posix(), re.sub(rf" ?\([^()]*{PAPER}[^()]*\)", "", first), tuple(sources), points, title)


def cited(text: str) -> list[str]:
    """Citations in a docstring, in order: an author with a year, or an arXiv number."""
    flat = " ".join(text.split())
    found = []
    for match in CITED.finditer(flat):
        inside = match.group().strip()
        inside = inside[1:-1] if inside.startswith("(") else inside
        found += [part.strip(" .,") for part in inside.split(";")]
    return [one for one in found if re.search(PAPER, one) and re.match(r"[A-Z]|arXiv", one)]


def numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """The line before a numbered list, and its points, each on one line."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if re.match(r"1\. ", line)), None)
    if begin is None:
        return "", ()
    points: list[str] = []
    for line in lines[begin:]:
        if re.match(r"\d+\. ", line):
            points.append(re.sub(r"^\d+\. ", "", line))
        elif line.startswith("   ") and points:
            points[-1] += " " + line.strip()
        else:
            break
    above = " ".join(" ".join(lines[:begin]).strip().split())
    return re.split(r"(?<=[.?!]) ", above)[-1], tuple(points)


def page() -> str:
    """The whole page."""
    out = [
        "# Papers and files",
        "",
        "Made by `make docs` from the headers of the files; a test keeps it current. Edit the header, not this page.",
    ]
    for title, folder in ROOMS.items():
        found = [h for p in sorted((SRC / folder).glob("*.py")) if (h := header(p)).sources or h.points]
        if not found:
            continue
        out += ["", f"## {title}", ""]
        for one in found:
            out.append(f"- **[{one.file}](../src/trueup/{one.file})**: {one.method}")
            if one.sources:
                out.append(f"  - Source: {'; '.join(one.sources)}")
            if one.points:
                out.append(f"  - {one.points_are}")
                out += [f"    {number}. {point}" for number, point in enumerate(one.points, 1)]
    return "\n".join(out) + "\n"


def main(arguments: list[str]) -> int:
    """Writes or checks."""
    made = page()
    if arguments == ["--check"]:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
