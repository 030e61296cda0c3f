"""Taking a stage's steps so that it can be killed anywhere and resumed: states, ledger, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.learn.learner import Learner
from trueup.loop.config import LoopConfig
from trueup.loop.state import load_state, save_state
from trueup.loop.train import Step, train
from trueup.pipeline.context import Context
from trueup.pipeline.events import Event


def run_steps(
    context: Context,
    name: str,
    learner: Learner[Any, Any],
    batch_of: Callable[[int], Any],
    *,
    steps: int,
    loop: LoopConfig,
    key: Key,
    arm: str | None = None,
    stop: int | None = None,
    after: Callable[[Step], bool | None] | None = None,
) -> None:
    """Take the steps of a stage that have not been taken yet, and leave the learner's weights at ``stop``.

    A state is written every ``checkpoint_every`` steps and at ``stop``; a resumed process loads the last one, drops the metrics logged
    after it, and repeats at most the steps since. What ``after`` writes must be named by step, so that repeating it changes nothing.

    Args:
        context: the run.
        name: the stage, such as ``policy``; with ``arm`` it names the state.
        learner: what learns.
        batch_of: global batch of a step.
        steps: length of the whole stage.
        loop: how steps are taken.
        key: root of the stage's random streams.
        arm: which arm; None for stages that arms share.
        stop: step to stop before; ``steps`` if None.
        after: called after each step, before its state is written; True ends the stage there, as if it were ``stop``.
    """
    run, every = context.run, context.config.checkpoint_every
    stop = steps if stop is None else stop
    folder = run.state(f"{arm}/{name}" if arm else name)
    state = load_state(folder)
    done = state.step if state else 0
    main = context.accelerator.is_main_process
    if main:
        run.rewind(name, arm, done)
    context.tell(Event(kind="stage", stage=name, arm=arm, step=done, total=steps))
    taking = train(
        learner,
        _noting(context, name, arm, batch_of),
        steps=steps,
        config=loop,
        key=key,
        accelerator=context.accelerator,
        start=state,
        stop=max(stop, done),
    )
    for step in _placed(taking, f"stage {name}" + (f" of arm {arm}" if arm else "")):
        taken = step.index + 1
        _told(context, name, arm, step, steps)
        ends = after is not None and bool(after(step))
        if (main or loop.shard) and (taken % every == 0 or taken == stop or ends):
            state = step.snapshot()  # split slots are gathered from every process
            if main:
                save_state(folder, state)
        context.accelerator.wait_for_everyone()
        if ends:
            break


def _told(context: Context, name: str, arm: str | None, step: Step, steps: int) -> None:
    """The step's metrics, to the run's log, trackers and listener."""
    if context.accelerator.is_main_process:
        context.run.log({"stage": name, "arm": arm, "step": step.index, "metrics": step.metrics, "seconds": round(step.seconds, 4)})
        context.accelerator.log({f"{name}/{k}": v for k, v in step.metrics.items()}, step=step.index)
    context.tell(Event(kind="step", stage=name, arm=arm, step=step.index + 1, total=steps, metrics=step.metrics))


def _placed(steps: Iterator[Step], place: str) -> Iterator[Step]:
    """The same steps; what the user must know of a failure says in which stage it happened."""
    try:
        yield from steps
    except UserError as error:
        raise UserError(error.message, where=f"{place}, {error.where}" if error.where else place) from error


def _noting(context: Context, name: str, arm: str | None, batch_of: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same batches, each step entered in the ledger as it begins."""

    def noted(step: int) -> Any:
        if context.accelerator.is_main_process:
            context.run.ledger(name, arm, step)
        return batch_of(step)

    return noted
