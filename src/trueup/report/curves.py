"""The figures along training: proxy and gold against KL, every evaluation by step, proxy against gold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trueup.report.blocks import Figures
from trueup.report.panels import Line, Mark, Panel, arm_colours, draw
from trueup.report.text import number, title

Checkpoint = Mapping[str, Any]
Pick = Callable[[Checkpoint], Mapping[str, Any] | None]


def headline(data: Mapping[str, Any]) -> Figures | None:
    """Proxy and gold of every arm, as changes since the start, against the square root of the KL (or the step where no KL is known).

    Both are divided by their standard deviation over the replies of the main arm's first checkpoint, so that two scores without a
    common unit share one axis. None with fewer than two checkpoints.
    """
    arms = [a for a in data["arms"] if len(a["checkpoints"]) > 1]
    if not arms:
        return None
    by_kl = all(c["kl_nats"] is not None for a in arms for c in a["checkpoints"])
    scale = data["scale"]
    lines = {a["name"]: _headline_lines(a["checkpoints"], scale, by_kl) for a in arms}
    everything = [line for group in lines.values() for line in group]
    if not everything:
        return None
    ylim = _common([v for line in everything for v in (*line.y, *line.low, *line.high)])
    xlim = _common([v for line in everything for v in line.x], margin=0.03)
    keep = {name: d.get("keep_step") for name, d in data["decisions"].items()}
    panels = []
    for arm in arms:
        place = _place(arm["checkpoints"], keep.get(arm["name"]), by_kl)
        panel = Panel(
            title=arm["name"],
            alt=_headline_alt(arm, lines[arm["name"]]),
            xlabel="√KL to the reference (√nats)" if by_kl else "policy updates",
            ylabel="change since start (SD of replies)",
            lines=lines[arm["name"]],
            xlim=xlim,
            ylim=ylim,
            zero=True,
            marks=() if place is None else (Mark(x=place, label=f"keep {keep[arm['name']]}"),),
        )
        panels.append(draw(panel))
    names = [f"proxy: what the first reward model says (SD {number(scale['proxy_sd'])})"]
    if scale.get("gold_sd") is not None:
        names.append(f"gold: the score believed true (SD {number(scale['gold_sd'])})")
    caption = (
        "Each point is a checkpoint on test prompts; bands are 95 % intervals of the level. "
        "Scores are shown as changes since each arm's first checkpoint, "
        "in standard deviations of the replies at the main arm's first checkpoint. "
        "All arms share both axes. The dotted line marks the checkpoint to keep."
    )
    if len(names) == 1:
        caption += " No gold is known in this run."
    return Figures(panels=panels, caption=caption, legend=list(zip(names, ("proxy", "gold"), strict=False)))


def by_step(arms: Sequence[Mapping[str, Any]], name: str, pick: Pick, *, unit: str = "", marks: Sequence[Mark] = ()) -> Panel | None:
    """One quantity along training, a line an arm; None where no arm has it."""
    colours = arm_colours([a["name"] for a in arms])
    lines = []
    for arm in arms:
        points = [(c["step"], e) for c in arm["checkpoints"] if (e := pick(c)) is not None and e["value"] is not None]
        if points:
            lines.append(_line(arm["name"], points, colours[arm["name"]]))
    if not lines:
        return None
    alt = f"{title(name)} by policy update. " + " ".join(
        f"{line.label}: {number(line.y[0])} at first, {number(line.y[-1])} at last." for line in lines
    )
    return Panel(title=title(name), alt=alt, xlabel="policy updates", ylabel=unit, lines=lines, marks=marks)


def tracking(data: Mapping[str, Any]) -> Figures | None:
    """Reward, gold and every evaluation by checkpoint, one small figure each, all arms in each (the paper's Figure 4)."""
    arms = [a for a in data["arms"] if len(a["checkpoints"]) > 1]
    names = sorted({n for a in arms for c in a["checkpoints"] for n in c["evaluations"]})
    wanted: list[tuple[str, Pick, str]] = [
        ("proxy (first reward model)", lambda c: c["proxy_fixed"], "score"),
        ("proxy (reward model in force)", lambda c: c["proxy_current"] if _differs(arms) else None, "score"),
        ("gold", lambda c: c["gold"], "score"),
        ("KL to the reference", lambda c: c["kl_nats"], "nats"),
        *((n, lambda c, n=n: c["evaluations"].get(n), "") for n in names),
        ("reply length", lambda c: c.get("n_tokens"), "tokens"),
    ]
    panels = [p for name, pick, unit in wanted if (p := by_step(arms, name, pick, unit=unit)) is not None]
    if not panels:
        return None
    caption = "Means over test prompts by policy update; bands are 95 % intervals over prompts."
    return Figures(panels=[draw(p) for p in panels], caption=caption)


def _differs(arms: Sequence[Mapping[str, Any]]) -> bool:
    pairs = [(c["proxy_fixed"], c["proxy_current"]) for a in arms for c in a["checkpoints"]]
    return any(a is not None and b is not None and a["value"] != b["value"] for a, b in pairs)


def _line(label: str, points: Sequence[tuple[float, Mapping[str, Any]]], colour: str) -> Line:
    estimates = [e for _, e in points]
    return Line(
        label=label,
        x=[x for x, _ in points],
        y=[e["value"] for e in estimates],
        low=[e["low"] for e in estimates],
        high=[e["high"] for e in estimates],
        colour=colour,
    )


def _headline_lines(checkpoints: Sequence[Checkpoint], scale: Mapping[str, Any], by_kl: bool) -> list[Line]:
    lines = []
    for label, column, spread in (("proxy", "proxy_fixed", scale.get("proxy_sd")), ("gold", "gold", scale.get("gold_sd"))):
        points = [(_x(c, by_kl), c[column]) for c in checkpoints if c[column] is not None and c[column]["value"] is not None]
        if not points or not spread:
            continue
        start = points[0][1]["value"]
        moved = [(x, {k: None if e[k] is None else (e[k] - start) / spread for k in ("value", "low", "high")}) for x, e in points]
        lines.append(_line(label, moved, label))
    return lines


def _x(checkpoint: Checkpoint, by_kl: bool) -> float:
    return math.sqrt(max(0.0, checkpoint["kl_nats"]["value"])) if by_kl else float(checkpoint["step"])


def _place(checkpoints: Sequence[Checkpoint], step: int | None, by_kl: bool) -> float | None:
    return next((_x(c, by_kl) for c in checkpoints if c["step"] == step), None)


def _headline_alt(arm: Mapping[str, Any], lines: Sequence[Line]) -> str:
    parts = [f"{line.label} changes by {number(line.y[-1])} SD by the last checkpoint" for line in lines]
    return f"Arm {arm['name']}: " + "; ".join(parts) + "."


def _common(values: Sequence[float | None], margin: float = 0.06) -> tuple[float, float]:
    known = [v for v in values if v is not None and math.isfinite(v)]
    low, high = min([*known, 0.0]), max([*known, 0.0])
    pad = margin * ((high - low) or 1.0)
    return low - pad, high + pad
