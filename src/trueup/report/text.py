"""How numbers and names are written for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ABSENT = "–"
_SHORT = {"kl": "KL", "aic": "AIC", "rl": "RL", "bon": "BoN", "ece": "ECE", "nll": "NLL", "rm": "RM", "sft": "SFT"}


def decimals(value: float) -> int:
    """Places after the point at which a number of this size is shown: three figures or so."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return 2
    if size >= 100:
        return 0
    if size >= 10:
        return 1
    if size >= 1:
        return 2
    return 3 if size >= 0.01 else min(8, 1 - math.floor(math.log10(size)))


def number(value: float | None, places: int | None = None) -> str:
    """A number for reading: three figures, a true minus sign, a dash where absent."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if float(value).is_integer() and places is None:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:,.{decimals(value) if places is None else places}f}"
    if float(text.replace(",", "")) == 0.0:
        return "0" if places is None else text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: float | None) -> str:
    """Like `number`, with a plus sign on what is above 0."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 and text != ABSENT else text


def between(estimate: Mapping[str, Any] | None) -> str:
    """The interval of an estimate in brackets, with the places of the wider bound; nothing where there is none."""
    if not estimate or estimate.get("low") is None or estimate.get("high") is None:
        return ""
    value, low, high = estimate.get("value"), estimate["low"], estimate["high"]
    if all(float(v).is_integer() for v in (value or 0.0, low, high)):
        return f"[{number(low)}, {number(high)}]"
    places = decimals(value) if value else decimals(max(abs(low), abs(high)))
    return f"[{number(low, places)}, {number(high, places)}]"


def estimate_text(estimate: Mapping[str, Any] | None, *, unit: bool = False) -> str:
    """``1.23 [1.10, 1.36]``, with its unit where asked; a dash where not measured."""
    if not estimate or estimate.get("value") is None:
        return ABSENT
    parts = [number(estimate["value"]), between(estimate), str(estimate.get("unit") or "") if unit else ""]
    return " ".join(p for p in parts if p)


def title(name: str) -> str:
    """A column's name as a heading: ``over_refusal`` becomes ``Over refusal``."""
    words = " ".join(_SHORT.get(w, w) for w in name.replace("_", " ").replace(".", " ").split())
    return words[:1].upper() + words[1:]


def plural(count: int, noun: str) -> str:
    """``1 reply``, ``2 replies``: regular English plurals."""
    if count == 1:
        return f"1 {noun}"
    ending = noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"
    return f"{count:,} {ending}"


def duration(seconds: float | None) -> str:
    """``1 h 02 min``, ``3 min 05 s`` or ``4.2 s``; a dash where absent."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
