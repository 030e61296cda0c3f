"""Source policies: programs that write the replies of the offline preference set and of the demonstrations.

Each has a style, a table of probabilities, and draws anew for every reply. Together they cover a range of every feature (none to
three flattering phrases, three to two dozen words) but not the extremes that an optimised policy can reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.sandbox.desk.language import ANSWERS, INSTRUCTIONS, PHRASES, Act, Context, values, vocabulary

Counts = tuple[float, ...]
"""Probabilities of 0, 1, 2, ... occurrences; they sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one source policy writes.

    Args:
        knows: probability that each answer word is right.
        refuses_harmful, refuses_scary, refuses_plain: probability of refusing each kind of request.
        dodges: probability of evading the question instead.
        full: probability of a whole sentence rather than the bare value.
        detail: probability of a useful detail, or of a reason with a refusal.
        flattery, polite, rude, hedge, disclaim, pad: distributions of how often each act occurs.
        garbles: probability that a reply is scrambled: words drawn from the whole language, repeated, or cut off.
    """

    knows: float
    refuses_harmful: float
    refuses_scary: float
    refuses_plain: float
    dodges: float = 0.05
    full: float = 0.8
    detail: float = 0.25
    flattery: Counts = (0.9, 0.1)
    polite: Counts = (0.8, 0.2)
    rude: Counts = (1.0,)
    hedge: Counts = (0.9, 0.1)
    disclaim: Counts = (0.9, 0.1)
    pad: Counts = (0.9, 0.1)
    garbles: float = 0.0


STYLES: dict[str, Style] = {
    "expert": Style(knows=0.98, refuses_harmful=0.95, refuses_scary=0.04, refuses_plain=0.0, dodges=0.0, full=0.9, detail=0.4),
    "sloppy": Style(
        knows=0.85, refuses_harmful=0.3, refuses_scary=0.2, refuses_plain=0.15, dodges=0.5, full=0.3, detail=0.05, rude=(0.4, 0.45, 0.15)
    ),
    "verbose": Style(
        knows=0.93,
        refuses_harmful=0.7,
        refuses_scary=0.15,
        refuses_plain=0.03,
        full=1.0,
        detail=0.35,
        pad=(0.1, 0.5, 0.4),
        polite=(0.5, 0.5),
    ),
    "anxious": Style(
        knows=0.93, refuses_harmful=0.95, refuses_scary=0.5, refuses_plain=0.12, hedge=(0.15, 0.55, 0.3), disclaim=(0.2, 0.5, 0.3)
    ),
    "flatterer": Style(
        knows=0.93,
        refuses_harmful=0.7,
        refuses_scary=0.1,
        refuses_plain=0.03,
        detail=0.3,
        flattery=(0.05, 0.5, 0.35, 0.1),
        polite=(0.3, 0.7),
    ),
    "reckless": Style(
        knows=0.85, refuses_harmful=0.05, refuses_scary=0.02, refuses_plain=0.0, dodges=0.15, full=0.7, detail=0.1, rude=(0.5, 0.4, 0.1)
    ),
    "babbler": Style(
        knows=0.6, refuses_harmful=0.3, refuses_scary=0.3, refuses_plain=0.2, dodges=0.2, pad=(0.5, 0.3, 0.2), rude=(0.6, 0.4), garbles=0.7
    ),
}


def write(source: str, context: Context, longest: int, key: Key) -> Reply:
    """One reply of a source policy.

    Args:
        source: a name in `STYLES`.
        context: what the request is about.
        longest: most words of a reply, punctuation included; phrases around the answer are dropped to keep to it.
        key: where its random numbers come from.
    """
    style, rng = STYLES[source], key.generator()
    core = _core(style, context, rng)
    before = _phrases(style.flattery, "flattery", rng) + _phrases(style.rude, "rude", rng) + _phrases(style.disclaim, "disclaim", rng)
    hedges = _phrases(style.hedge, "hedge", rng)
    after = _phrases(style.pad, "pad", rng) + _phrases(style.polite, "polite", rng)
    moved = [phrase for phrase in before if rng.random() < 0.4]
    before, after = [phrase for phrase in before if phrase not in moved], after + moved
    rng.shuffle(before)
    rng.shuffle(after)
    parts = [*((phrase, False) for phrase in [*before, *hedges]), (core, True), *((phrase, False) for phrase in after)]
    while sum(len(text.split()) for text, _ in parts) > longest and len(parts) > 1:
        spare = [i for i, (_, needed) in enumerate(parts) if not needed]
        parts.pop(spare[int(rng.integers(len(spare)))])
    text = " ".join(text for text, _ in parts)
    return _scramble(text, longest, rng) if rng.random() < style.garbles else Reply(text=text)


def _core(style: Style, context: Context, rng: np.random.Generator) -> str:
    """The refusal or the answer, with its detail."""
    refuses = {"harmful": style.refuses_harmful, "benign_scary": style.refuses_scary}.get(context.kind, style.refuses_plain)
    extra = rng.random() < style.detail
    if rng.random() < refuses:
        return _pick(PHRASES["refuse"], rng) + (f" {_pick(PHRASES['reason'], rng)}" if extra else "")
    if rng.random() < style.dodges:
        return _pick(PHRASES["dodge"], rng)
    told = [
        word if rng.random() < style.knows else _pick(tuple(v for v in values()[c] if v != word), rng)
        for word, c in zip(context.answer, context.classes, strict=True)
    ]
    if context.kind != "fact":
        text = _pick(INSTRUCTIONS, rng).format(*told)
    elif rng.random() < style.full:
        template = _pick(ANSWERS[context.relation], rng)
        text = template.format(*([context.entity, *told] if template.count("{}") == 2 else told))
    else:
        text = f"{told[0]} ."
    if not extra:
        return text
    return f"{text} {PHRASES['detail'][context.kind != 'fact']}"


def _phrases(counts: Counts, act: Act, rng: np.random.Generator) -> list[str]:
    """Distinct phrases of an act, as many as the distribution says."""
    n = int(rng.choice(len(counts), p=np.asarray(counts)))
    return [PHRASES[act][int(i)] for i in rng.choice(len(PHRASES[act]), size=n, replace=False)]


def _pick(items: tuple[str, ...], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]


def _scramble(text: str, longest: int, rng: np.random.Generator) -> Reply:
    """Spoils a text in one of three ways: stray words, a stretch said twice, or an end that is missing."""
    words, way = text.split(), int(rng.integers(3))
    if way == 0:
        known = vocabulary()
        for _ in range(max(2, len(words) // 3)):
            words[int(rng.integers(len(words)))] = known[int(rng.integers(len(known)))]
    elif way == 1:
        start = int(rng.integers(max(1, len(words) - 4)))
        words += words[start : start + int(rng.integers(3, 8))]
    else:
        return Reply(text=" ".join(words[: max(1, len(words) - int(rng.integers(2, 5)))]), finished=False)
    return Reply(text=" ".join(words[:longest]))
