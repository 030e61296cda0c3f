"""Whatever scores replies: functions as TRL calls them, functions of prompts and replies, reward models in folders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueup.core.errors import UserError
from trueup.data.prompts import read_prompts
from trueup.data.rows import Conversation, Prompt, Reply
from trueup.data.turns import check_messages, prompt_id
from trueup.models.reward import load_reward
from trueup.rewards.learned import LearnedReward, read_scale

Function = Callable[..., Sequence[float | None]]
Judge = str | Path | Function
"""A folder or hub name of a reward model, or a function."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Replies as judges are shown them, row by row."""

    prompts: Sequence[Prompt]
    replies: Sequence[Reply]
    ids: Sequence[list[int]] = ()
    """Token ids of each reply."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What else stood in the prompts' rows, such as the right answer."""


def scores_of(judge: Judge, name: str, judged: Judged) -> list[float | None]:
    """One number a row, None where the judge gives none.

    A function with a parameter ``completions`` is called as TRL calls reward functions, by keyword: ``prompts``, ``completions``,
    ``completion_ids`` and the columns of the prompts' rows; chat prompts get chat completions. Any other function gets prompts and replies,
    two lists, texts where the prompts are texts.

    Args:
        judge: see `Judge`; a loaded `LearnedReward` too.
        name: for messages.
        judged: the rows.

    Raises:
        UserError: another number of scores than of rows, or a score that is no number.
    """
    if isinstance(judge, LearnedReward):
        found: Sequence[Any] = judge.score([p.text for p in judged.prompts], judged.replies).tolist()
    else:
        found = _called(judge, judged)
    try:
        values = [None if v is None else float(v) for v in found]
    except (TypeError, ValueError) as error:
        raise UserError(f"must give a list of numbers, one a reply ({error}).", where=f"'{name}'") from error
    if len(values) != len(judged.replies):
        raise UserError(f"gave {len(values)} scores for {len(judged.replies)} replies. Give one a reply.", where=f"'{name}'")
    return [v if v is not None and math.isfinite(v) else None for v in values]


def loaded(judge: Judge) -> Judge:
    """The judge itself, or the reward model of a folder; `scores_of` takes either.

    Raises:
        UserError: no reward model is there.
    """
    if not isinstance(judge, str | Path):
        return judge
    return LearnedReward(load_reward(judge), read_scale(Path(judge)))  # type: ignore[return-value]


def judge_name(judge: Judge) -> str:
    """Name among the scores: the folder's, or the function's."""
    if isinstance(judge, str | Path):
        return Path(judge).name
    return str(getattr(judge, "__name__", type(judge).__name__))


def given_judges(rewards: Judge | Sequence[Judge] | Mapping[str, Judge], where: str) -> dict[str, Judge]:
    """Judges by name, from one, several, or a mapping.

    Raises:
        UserError: none, two of one name, or something that cannot judge; ``where`` is named.
    """
    if isinstance(rewards, Mapping):
        found = dict(rewards)
    else:
        several = list(rewards) if isinstance(rewards, Sequence) and not isinstance(rewards, str) else [rewards]
        found = {judge_name(j): j for j in several}
        if len(found) < len(several):
            raise UserError("two rewards have the same name. Give a mapping of names to rewards.", where=where)
    wrong = [name for name, judge in found.items() if not (callable(judge) or isinstance(judge, str | Path))]
    if not found or wrong:
        raise UserError("takes functions, or folders of reward models, at least one.", where=where)
    return found


def given_prompts(given: Any, where: str) -> tuple[list[Prompt], dict[str, list[Any]]]:
    """Prompts with what else stands in their rows, from texts, lists of messages, rows with a ``prompt``, or a file.

    Raises:
        UserError: none, two that are equal, or something that is no prompt; ``where`` is named.
    """
    if isinstance(given, str | Path):
        return read_prompts(given), {}
    rows = [row if isinstance(row, Mapping) else {"prompt": row} for row in given]
    prompts = []
    for i, row in enumerate(rows):
        place, value = f"{where}, prompts[{i}]", row.get("prompt")
        if not isinstance(value, str | list | tuple) or not value:
            raise UserError(f"must be a text, a list of messages, or a row with a 'prompt', got {str(value)[:60]!r}.", where=place)
        text = value if isinstance(value, str) else tuple(check_messages(list(value), place))
        prompts.append(Prompt(id=prompt_id(text), text=text, split="test"))
    if not prompts or len({p.id for p in prompts}) < len(prompts):
        raise UserError("must be distinct prompts, at least one.", where=f"{where}, prompts")
    names = [name for name in dict.fromkeys(k for row in rows for k in row) if name != "prompt"]
    return prompts, {name: [row.get(name) for row in rows] for name in names}


def _called(function: Any, judged: Judged) -> Sequence[Any]:
    texts = [r.text for r in judged.replies]
    prompts = [_plain(p.text) for p in judged.prompts]
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return list(function(prompts, texts))
    if "completions" not in parameters:
        return list(function(prompts, texts))
    chat = [
        text if isinstance(p.text, str) else [{"role": "assistant", "content": text}] for p, text in zip(judged.prompts, texts, strict=True)
    ]
    offered = {**judged.columns, "prompts": prompts, "completions": chat, "completion_ids": list(judged.ids)}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return list(function(**offered))
    return list(function(**{k: v for k, v in offered.items() if k in parameters}))


def _plain(text: Conversation) -> Any:
    return text if isinstance(text, str) else [dict(m) for m in text]
