"""Preferences under stated principles, from a judge's scores of each principle (SALMON; Sun et al. 2023, arXiv:2310.05910).

A judge compares two replies under every principle, in both orders. Each training row then draws some principles, turns some of them
round, and takes the label of the one that speaks loudest; the principles stand in the prompt, so a reward model learns to follow whatever
list it is given. Numbers are those of the paper's ``aggregate_synthetic_preference.py``.

Deviations:
1. The draws of a row follow from its number and its pass, not from the order of the rows.
2. What a hard rule says (such as: one reply is in the wrong language) is given by the caller.
3. Principles are written behind the prompt, because long prompts are cut from the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trueup.core.config import Config
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Message, Preference, Prompt, Reply
from trueup.data.turns import prompt_id

Array = npt.NDArray[np.float64]
HEADING = "Judge the reply by these principles:"


class Principle(Config):
    """A rule that replies can follow."""

    name: str
    """Short name."""
    text: str
    """What a good reply does."""
    opposite: str
    """The same turned round: what a good reply does where the principle is negated."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A prompt and two replies that a judge compared."""

    id: str
    prompt: Prompt
    first: Reply
    second: Reply


class PrincipleDraws(Config):
    """How principles are drawn for a row; defaults are the paper's."""

    passes: int = Field(default=4, ge=1)
    """Rows made of every comparison."""
    stop: float = Field(default=0.2, gt=0, le=1)
    """Chance that the list of principles ends after each one: their number is geometric."""
    most: int = Field(default=8, ge=1)
    """Longest list; longer draws are drawn again."""
    negated_share: float = Field(default=0.5, ge=0, le=1)
    """Chance that a principle is turned round."""
    flip_share: float = Field(default=0.1, ge=0, le=1)
    """Chance that a label is flipped, so that the reward model does not become too sure."""
    rule_flip_share: float = Field(default=0.25, ge=0, le=1)
    """The same where a hard rule gave the label."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn for one row."""

    principles: tuple[int, ...]
    """Positions of the drawn principles."""
    negated: tuple[bool, ...]
    """One a principle."""
    flipped: float
    """Uniform draw between 0 and 1; the label is flipped where it is below the share."""


def agreed(direct: Array, swapped: Array) -> Array:
    """[N, D] Mean of the scores of both orders where their signs agree, 0 elsewhere.

    Args:
        direct: [N, D] how much better the first reply is under each principle, as logit(first) - logit(second).
        swapped: [N, D] the same quantity, for the first reply still, when the judge saw the second one first.
    """
    return np.where(np.sign(direct) * np.sign(swapped) > 0, (direct + swapped) / 2, 0.0)


def standardised(direct: Array, swapped: Array) -> Array:
    """[N, D] Agreed scores divided by the principle's variance over the data set, all scores of both orders taken.

    The variance and not the deviation, as in the paper's code. A principle without variance keeps its scores.
    """
    spread = np.var(np.concatenate([direct, swapped]), axis=0)
    return agreed(direct, swapped) / np.where(spread > 0, spread, 1.0)


def draw(key: Key, principles: int, settings: PrincipleDraws) -> Drawn:
    """The principles of one row: a geometric number of distinct ones in random order, some turned round.

    Args:
        key: of the row and pass.
        principles: how many there are (D).
        settings: see there.
    """
    generator = key.generator()
    order = generator.permutation(principles)
    number = settings.most + 1
    while number > settings.most:
        number = int(generator.geometric(settings.stop))
    picked = order[:number]
    negated = generator.random(len(picked)) < settings.negated_share
    return Drawn(principles=tuple(int(i) for i in picked), negated=tuple(bool(x) for x in negated), flipped=float(generator.random()))


def loudest(scores: Array, drawn: Drawn) -> float:
    """The score of largest size among the drawn principles, negated ones with their sign turned; 0 where no principle says anything.

    Args:
        scores: [D] of one comparison, from `standardised`.
        drawn: its principles.
    """
    signed = [-scores[i] if negated else scores[i] for i, negated in zip(drawn.principles, drawn.negated, strict=True)]
    return float(max(signed, key=abs, default=0.0))


def first_wins(score: float, drawn: Drawn, settings: PrincipleDraws, rule: int = 0) -> bool | None:
    """Whether the first reply is the chosen one; None where the row teaches nothing.

    Args:
        score: from `loudest`.
        drawn: says whether the label is flipped.
        settings: chances of a flip.
        rule: what a hard rule says: 1 the first reply, -1 the second, 0 nothing.
    """
    if score == 0:
        return None
    wins = (rule or score) > 0
    return wins != (drawn.flipped < (settings.rule_flip_share if rule else settings.flip_share))


def principle_preferences(
    compared: Sequence[Compared],
    direct: Array,
    swapped: Array,
    principles: Sequence[Principle],
    key: Key,
    settings: PrincipleDraws | None = None,
    rules: Sequence[int] | None = None,
) -> list[Preference]:
    """Training rows for a reward model that follows principles.

    Args:
        compared: N comparisons.
        direct: [N, D] see `agreed`.
        swapped: [N, D] see `agreed`.
        principles: D principles.
        key: of the draws.
        settings: how principles are drawn.
        rules: [N] see `first_wins`; none if left out.

    Returns:
        At most ``passes`` rows a comparison; the principles of each are in its prompt.

    Raises:
        UserError: numbers of rows or principles do not agree, or a score is not finite.
    """
    settings = settings or PrincipleDraws()
    expected = (len(compared), len(principles))
    for name, found in (("direct", direct), ("swapped", swapped)):
        if found.shape != expected:
            raise UserError(f"has shape {found.shape}, not {expected}: a row a comparison, a column a principle.", where=name)
        if not np.isfinite(found).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(found))[0])
            raise UserError(
                f"the score {found[row, column]} is not finite.", where=f"{name}, row {row}, principle '{principles[column].name}'"
            )
    said = [0] * len(compared) if rules is None else list(rules)
    if len(said) != len(compared):
        raise UserError(f"has {len(said)} entries, not {len(compared)}: one a comparison.", where="rules")
    scores, rows = standardised(direct, swapped), []
    for turn in range(settings.passes):
        for i, (one, rule) in enumerate(zip(compared, said, strict=True)):
            drawn = draw(key / turn / i, len(principles), settings)
            wins = first_wins(loudest(scores[i], drawn), drawn, settings, rule)
            if wins is not None:
                texts = [principles[p].opposite if n else principles[p].text for p, n in zip(drawn.principles, drawn.negated, strict=True)]
                rows.append(_preference(one, texts, wins, turn))
    return rows


def with_principles(prompt: Conversation, principles: Sequence[str]) -> Conversation:
    """The prompt with a list of principles behind it, in the last turn where it has turns; without principles, the prompt itself."""
    if not principles:
        return prompt
    listed = "\n".join([HEADING, *(f"- {p}" for p in principles)])
    if isinstance(prompt, str):
        return f"{prompt}\n\n{listed}\n"
    last = prompt[-1]
    return (*prompt[:-1], Message(role=last["role"], content=f"{last['content']}\n\n{listed}"))


def _preference(one: Compared, texts: Sequence[str], wins: bool, turn: int) -> Preference:
    prompt = with_principles(one.prompt.text, texts)
    chosen, rejected = (one.first, one.second) if wins else (one.second, one.first)
    return Preference(
        id=f"{one.id}/{turn}", prompt=replace(one.prompt, id=prompt_id(prompt), text=prompt), chosen=chosen, rejected=rejected
    )
