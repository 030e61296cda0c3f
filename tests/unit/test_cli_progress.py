"""Progress: bars on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trueup.cli.progress import Bars, Lines, seconds, watching
from trueup.pipeline.events import Event

EVENTS = [
    Event(kind="stage", stage="policy", arm="static", step=10, total=30),
    *(
        Event(kind="step", stage="policy", arm="static", step=i, total=30, metrics={"reward": i / 10, "objective/kl": 1.0})
        for i in range(11, 31)
    ),
    Event(kind="note", stage="policy", arm="static", text="accuracy [0.7] on 40 pairs"),
    Event(kind="done", stage="policy", text="runs/x"),
]


def test_lines_give_rate_and_time_left() -> None:
    out, now = io.StringIO(), [0.0]
    lines = Lines(Console(file=out, width=200), clock=lambda: now[0])
    for event in EVENTS:
        now[0] += 2.0 if event.kind == "step" else 0.0
        lines(event)
    # Two seconds a step: a line after five steps (ten seconds). 15 of 30 done, 5 of them here at 0.5 a second; 15 left take 30 s.
    assert out.getvalue().splitlines() == [
        "policy static: 20 steps to go",
        "policy static: 15/30, 0.5 steps/s, 30 s left  reward 1.5  kl 1",
        "policy static: 20/30, 0.5 steps/s, 20 s left  reward 2  kl 1",
        "policy static: 25/30, 0.5 steps/s, 10 s left  reward 2.5  kl 1",
        "policy static: 30/30, 0.5 steps/s  reward 3  kl 1",
        "policy static: accuracy [0.7] on 40 pairs",
    ]


def test_bars_on_a_terminal() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, width=140, force_terminal=True, highlight=False))
    with bars.progress:
        for event in EVENTS:
            bars(event)
    text = out.getvalue()
    assert "policy static: 20 steps in" in text  # ten of the thirty were done before
    assert "accuracy [0.7]" in text
    assert not bars.progress.tasks  # a finished stage leaves a line, not a bar


@pytest.mark.parametrize("kind", [Bars, Lines])
def test_a_finished_stage_that_is_resumed_shows_nothing_to_do(kind: type) -> None:
    out = io.StringIO()
    kind(Console(file=out))(Event(kind="stage", stage="sft", step=13, total=13))
    assert out.getvalue() == ""


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bars), (False, Lines)])
def test_the_right_watcher(terminal: bool, kind: type) -> None:
    with watching(Console(file=io.StringIO(), force_terminal=terminal), quiet=False) as listen:
        assert isinstance(listen, kind)


def test_quiet_is_silent() -> None:
    out = io.StringIO()
    with watching(Console(file=out, force_terminal=True), quiet=True) as listen:
        for event in EVENTS:
            listen(event)
    assert out.getvalue() == ""


@pytest.mark.parametrize(("value", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")])
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text
