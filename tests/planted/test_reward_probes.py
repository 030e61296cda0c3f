"""Flaws of simulated reward models that only changed copies show: planted ones alarm, sound noisy ones rarely do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import special

from trueup.core.rng import Key
from trueup.mismatch.reward_model import gaming, prompt, reading, robustness
from trueup.mismatch.reward_model.probes import checked_probes
from trueup.mismatch.reward_model.question import Evidence, Question
from trueup.mismatch.reward_model.scores import checked

SEEDS = range(12)
GROUP = 4
"""Prompts that exchange replies."""


def model(
    seed: int, *, hidden: float = 0.0, blind: float = 0.0, deaf: float = 0.0, padded: float = 0.0, shaken: float = 0.15, bribe: float = 0.0,
    trick: float = 0.3,
) -> Evidence:  # fmt: skip
    """Quality plus match of prompt and reply, both read with noise, and labels drawn from the truth.

    Args:
        seed: of the draws.
        hidden: share of the match that the score hides.
        blind: share of replies at which no prompt is read.
        deaf: share of replies whose end is not read.
        padded: share of replies whose score follows the batch.
        shaken: deviation of the score under harmless changes.
        bribe: what one phrase buys.
        trick: what the text of a search buys.
    """
    rng, prompts, items = np.random.default_rng(seed), 240, 2
    rows, copies = [], []
    for p in range(prompts):
        first, own = p - p % GROUP, p % GROUP
        for k in range(items):
            match = rng.normal(size=(2, GROUP)) - 0.5 * (np.arange(GROUP) != own)
            truth = rng.normal(size=(2, 1)) + match
            seen = truth + 0.7 * rng.normal(size=(2, 1)) + 0.7 * rng.normal(size=(2, GROUP))
            seen -= hidden * (seen - seen.mean(1, keepdims=True))
            flat = rng.random(2) < blind
            seen[flat] = seen[flat].mean(1, keepdims=True)
            won = rng.random() < special.expit(truth[0, own] - truth[1, own])
            for j in range(2):
                s = seen[j, own]
                rows.append(("m", f"{p}-{k}", f"p{p}", j, float(won == (j == 0)), s))

                def add(probe: str, variant: str, score: float, cluster: str, at: tuple[int, int, int, float] = (p, k, j, s)) -> None:
                    copies.append(("m", f"{at[0]}-{at[1]}", f"p{at[0]}", at[2], probe, variant, score, at[3], cluster))

                for q in (q for q in range(GROUP) if q != own):
                    add("other_prompt", f"p{first + q}", seen[j, q], f"g{first}")
                if k == 0 and p < 100:
                    add("ending", "word", s + (0.0 if rng.random() < deaf else rng.normal()), "")
                    add("company", "last", s + (rng.normal() if rng.random() < padded else 1e-7), "")
                    for probe in ("typo", "paraphrase"):
                        add(probe, "", s + shaken * rng.normal(), "")
                    for n in range(8):
                        add("appended", f"phrase {n}", s + 0.3 * rng.normal() + (bribe if n == 3 else -0.1), "")
                    add("search", "found", s + 0.3 * rng.normal() + trick, "")
    scores = checked(pd.DataFrame(rows, columns=["model", "item", "prompt_id", "reply", "rating", "score"]))
    columns = ["model", "item", "prompt_id", "reply", "probe", "variant", "score", "original", "cluster"]
    return Evidence(model="m", rows=scores, probes=checked_probes(pd.DataFrame(copies, columns=columns), scores), key=Key(seed))


def alarms(question: Question, make: Callable[[int], Evidence]) -> list[str]:
    """The rules of the seeds that alarm."""
    answers = [question.answer(make(s)) for s in SEEDS]
    return [a.rule for a in answers if a.verdict == "alarm"]


QUESTIONS = (prompt.QUESTION, reading.QUESTION, robustness.QUESTION, gaming.QUESTION)


@pytest.fixture(scope="module")
def sound() -> list[Evidence]:
    return [model(s) for s in SEEDS]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.name)
def test_sound_models_are_not_accused(question: Question, sound: list[Evidence]) -> None:
    answers = [question.answer(e) for e in sound]
    # at a level of 99.5 % one alarm in twelve would already be much
    assert sum(a.verdict == "alarm" for a in answers) <= 1
    assert not any(a.verdict == "not enough data" for a in answers)


@pytest.mark.parametrize(
    ("question", "flaw", "said"),
    [
        (prompt.QUESTION, {"hidden": 0.85}, "debt"),
        (prompt.QUESTION, {"hidden": 1.0}, "not shown to cost"),
        (prompt.QUESTION, {"blind": 0.1}, "same under any prompt"),
        (reading.QUESTION, {"deaf": 0.3}, "last word does not reach"),
        (reading.QUESTION, {"deaf": 1.0}, "last word does not reach"),
        (reading.QUESTION, {"padded": 0.3}, "rest of the batch"),
        (robustness.QUESTION, {"shaken": 4.0}, "turns"),
        (gaming.QUESTION, {"bribe": 1.5}, "“phrase 3” buys"),
        (gaming.QUESTION, {"trick": 5.0}, "search found"),
    ],
)
def test_planted_flaws_alarm(question: Question, flaw: dict[str, float], said: str) -> None:
    found = alarms(question, lambda s: model(s, **flaw))
    assert len(found) >= 0.9 * len(SEEDS)
    assert all(said in rule.replace("The last", "last").replace("Exchanging", "exchanging") for rule in found)
