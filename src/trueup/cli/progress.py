"""Progress of a run: bars with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from trueup.pipeline.events import Event

LINE_EVERY_S: Final = 10.0
SHOWN: Final = ("reward", "objective/kl", "accuracy", "nll_nats", "loss")
"""Metrics shown beside a bar, as far as a stage has them; two at most."""


@contextmanager
def watching(console: Console, *, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A listener for a run's events, for as long as the block lasts.

    Args:
        console: where progress goes.
        quiet: show nothing.
    """
    if quiet:
        yield lambda event: None
    elif console.is_terminal:
        bars = Bars(console)
        with bars.progress:
            yield bars
    else:
        yield Lines(console)


class Bars:
    """One bar a stage, removed for a line of summary when the stage is done."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", style="dim"),
            console=console,
        )
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        name = title(event)
        if event.kind == "note":
            self.progress.console.print(Text(f"{name}: {event.text}"), soft_wrap=True)
        elif event.kind == "step" or (event.kind == "stage" and event.step < event.total):
            if name not in self._tasks:
                first = event.step - (event.kind == "step")
                self._tasks[name] = self.progress.add_task(name, total=event.total, completed=first, shown=""), first
            self.progress.update(self._tasks[name][0], completed=event.step, total=event.total, shown=shown(event))
            if event.step >= event.total:
                self._finish(name)

    def _finish(self, name: str) -> None:
        task_id, first = self._tasks.pop(name)
        task = next(t for t in self.progress.tasks if t.id == task_id)
        took = seconds(task.elapsed or 0.0)
        self.progress.console.print(Text(f"{name}: {task.completed - first:.0f} steps in {took}  {task.fields['shown']}".rstrip()))
        self.progress.remove_task(task_id)


class Lines:
    """A line when a stage begins, every ten seconds, and when it ends."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began: dict[str, tuple[float, int]] = {}
        self._last = clock()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        name, now = title(event), self._clock()
        if event.kind == "stage" and event.step < event.total and name not in self._began:
            self._began[name] = now, event.step
            self._print(f"{name}: {event.total - event.step} steps to go")
        elif event.kind == "step":
            began, first = self._began.setdefault(name, (now, event.step - 1))
            if event.step >= event.total or now - self._last >= LINE_EVERY_S:
                rate = (event.step - first) / max(now - began, 1e-9)
                left = f", {seconds((event.total - event.step) / rate)} left" if event.step < event.total else ""
                self._print(f"{name}: {event.step}/{event.total}, {rate:.1f} steps/s{left}  {shown(event)}")
                self._last = now
        elif event.kind == "note":
            self._print(f"{name}: {event.text}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text.rstrip()), soft_wrap=True)


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} steps/s", style="cyan")


def title(event: Event) -> str:
    """What a stage is called on the screen."""
    return event.stage if event.arm is None else f"{event.stage} {event.arm}"


def shown(event: Event) -> str:
    """The metrics of an event that tell most."""
    found = [(name, event.metrics[name]) for name in SHOWN if name in event.metrics]
    return "  ".join(f"{name.rsplit('/', 1)[-1]} {value:.3g}" for name, value in found[:2])


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
