"""What a page is made of: sections of blocks, the same for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from markupsafe import Markup

TONES = {
    "alarm": "alarm",
    "quiet": "quiet",
    "better": "quiet",
    "worse": "alarm",
    "no difference shown": "plain",
    "not enough data": "plain",
}
"""Colour class of each verdict; every chip also says its word."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Panels side by side, with a legend where lines are not labelled themselves."""

    kind: ClassVar[str] = "figures"
    panels: Sequence[Markup]
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()
    """(label, key of `panels.COLOURS`)."""
    wide: bool = False
    """The panels are as wide as the page, one below another."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts in rows and columns."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: Sequence[int] = ()
    """Columns that hold words; the others but the first are aligned as numbers."""
    folded: str = ""
    """Where not empty: shown on demand, under this text."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A verdict about one arm, with the rule that decided."""

    who: str
    word: str
    rule: str
    colour: str = ""
    """Colour class, where the word is none of `TONES`."""

    @property
    def tone(self) -> str:
        """Its colour class."""
        return self.colour or TONES.get(self.word, "plain")


@dataclass(frozen=True, kw_only=True)
class Read:
    """A reply that one should read."""

    label: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One question with its verdicts and evidence."""

    kind: ClassVar[str] = "card"
    anchor: str
    heading: str
    name: str = ""
    text: str = ""
    verdicts: Sequence[Chip] = ()
    figures: Sequence[Figures] = ()
    tables: Sequence[Table] = ()
    reads: Sequence[Read] = ()


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A number in [0, 1] on its scale, or why there is none."""

    who: str
    text: str
    """The number with its interval; empty where there is none."""
    basis: str
    why: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The number of one link, of every arm."""

    kind: ClassVar[str] = "numbers"
    anchor: str
    title: str
    href: str
    """Its page."""
    name: str
    ask: str
    meters: Sequence[Meter]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with its verdicts and the place of its evidence."""

    question: str
    href: str
    name: str
    verdicts: Sequence[Chip]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All questions of a link, each leading to its card."""

    kind: ClassVar[str] = "overview"
    title: str
    href: str
    rows: Sequence[Asked]
    silent: Sequence[Asked] = ()
    """Those that the records cannot answer."""
    folded: str = ""
    """What they are shown under."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do, and the way to its evidence."""

    word: str
    why: str
    evidence: Sequence[Read] = ()
    """Cards."""
    replies: Sequence[Read] = ()
    pairs: Sequence[tuple[Read, Read]] = ()
    """Replies to compare."""


@dataclass(frozen=True, kw_only=True)
class Todo:
    """Things to do, what mends most first."""

    kind: ClassVar[str] = "todo"
    title: str
    steps: Sequence[Step]


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Something the page would show, and why it does not."""

    kind: ClassVar[str] = "absent"
    what: str
    why: str


Block = Figures | Table | Card | Absent | Numbers | Overview | Todo


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with its blocks."""

    anchor: str
    title: str
    lede: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One of the three sentences of the first screen."""

    ask: str
    word: str
    """The answer in a word or two."""
    tone: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The browsable table of replies."""

    summary: str
    rows: Sequence[dict[str, Any]]
    arms: Sequence[str]
    steps: Sequence[int]
    orders: Sequence[tuple[str, str]]
    """(value, label) of the orders that the data allow."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything the templates are given."""

    title: str
    meta: Sequence[str]
    answers: Sequence[Answer]
    headline: Figures | None
    sections: Sequence[Section]
    samples: Samples | None
    facts: Sequence[tuple[str, str]]
    others: Sequence[tuple[str, str]] = ()
    """(label, file) of the pages beside this one."""
