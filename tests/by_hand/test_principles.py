"""Preferences under principles: aggregation of scores of both orders, and the draws (SALMON)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.principles import (
    Compared,
    Drawn,
    Principle,
    PrincipleDraws,
    agreed,
    draw,
    first_wins,
    loudest,
    principle_preferences,
    standardised,
    with_principles,
)
from trueup.data.rows import Conversation, Message, Prompt, Reply
from trueup.rewards.principles import PrincipleReward

DIRECT = np.array([[2.0, 1.0], [-2.0, 3.0]])
SWAPPED = np.array([[4.0, -1.0], [-4.0, 5.0]])
# Agreed means: 3, 0 (the orders disagree), -3, 4. Variances over both orders: of 2 -2 4 -4, (4 + 4 + 16 + 16) / 4 = 10;
# of 1 3 -1 5, (1 + 9 + 1 + 25) / 4 - 2^2 = 5.
SCORES = np.array([[0.3, 0.0], [-0.3, 0.8]])
PRINCIPLES = [Principle(name="short", text="be short", opposite="be long"), Principle(name="kind", text="be kind", opposite="be harsh")]
CALM = PrincipleDraws(passes=3, flip_share=0.0, rule_flip_share=0.0)


def compared(n: int, turned: bool = False) -> list[Compared]:
    sides = [(Reply(text=f"a{i}"), Reply(text=f"b{i}")) for i in range(n)]
    return [
        Compared(id=str(i), prompt=Prompt(id=f"p{i}", text=f"q{i}"), first=b if turned else a, second=a if turned else b)
        for i, (a, b) in enumerate(sides)
    ]


def drawn(*principles: int, negated: tuple[bool, ...] | None = None, flipped: float = 0.99) -> Drawn:
    return Drawn(principles=principles, negated=negated or (False,) * len(principles), flipped=flipped)


def test_scores_count_where_both_orders_agree() -> None:
    assert_allclose(agreed(DIRECT, SWAPPED), [[3.0, 0.0], [-3.0, 4.0]])
    assert_allclose(standardised(DIRECT, SWAPPED), SCORES)
    assert agreed(np.array([[0.0]]), np.array([[2.0]])).item() == 0  # one order says nothing
    assert agreed(np.array([[1e-200]]), np.array([[1e-200]])).item() == 1e-200
    assert_allclose(standardised(np.array([[2.0]]), np.array([[2.0]])), [[2.0]])  # no variance to divide by


def test_the_loudest_principle_decides() -> None:
    assert loudest(SCORES[1], drawn(0, 1)) == pytest.approx(0.8)
    assert loudest(SCORES[1], drawn(0, 1, negated=(False, True))) == pytest.approx(-0.8)  # a dominating principle turned round
    assert loudest(SCORES[1], drawn(0, 1, negated=(True, False))) == pytest.approx(0.8)  # a lesser one turned round
    assert loudest(SCORES[1], drawn(0)) == pytest.approx(-0.3)
    assert loudest(SCORES[0], drawn(1)) == 0
    assert loudest(SCORES[0], drawn()) == 0


def test_labels_flips_and_rules() -> None:
    settings = PrincipleDraws()
    assert first_wins(0.8, drawn(0), settings) is True
    assert first_wins(-0.8, drawn(0), settings) is False
    assert first_wins(0.0, drawn(0), settings) is None
    # a draw of 0.15 is above the share of 0.1 and below the one of 0.25 of rows that a rule labelled
    assert first_wins(0.8, drawn(0, flipped=0.15), settings) is True
    assert first_wins(0.8, drawn(0, flipped=0.15), settings, rule=1) is False
    assert first_wins(0.8, drawn(0, flipped=0.05), settings) is False
    assert first_wins(0.8, drawn(0), settings, rule=-1) is False


def test_draws_are_geometric_distinct_and_half_negated() -> None:
    found = [draw(Key(1) / i, 12, PrincipleDraws()) for i in range(3000)]
    sizes = np.array([len(d.principles) for d in found])
    assert sizes.max() == 8
    # P(n) = 0.2 * 0.8^(n - 1) / (1 - 0.8^8), and 1 - 0.8^8 = 0.832228
    for n in (1, 2, 8):
        chance = 0.2 * 0.8 ** (n - 1) / 0.832228
        assert abs(np.mean(sizes == n) - chance) < 4 * np.sqrt(chance * (1 - chance) / len(sizes))
    assert all(len(set(d.principles)) == len(d.principles) == len(d.negated) for d in found)
    turned = np.concatenate([d.negated for d in found])
    assert abs(turned.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(turned))
    first = np.array([d.principles[0] for d in found])
    share = np.bincount(first, minlength=12) / len(first)
    assert np.abs(share - 1 / 12).max() < 5 * np.sqrt(1 / 12 * 11 / 12 / len(first))
    assert max(len(draw(Key(2) / i, 2, PrincipleDraws()).principles) for i in range(50)) == 2  # there are no more


def test_rows_say_their_principles_and_ignore_which_reply_came_first() -> None:
    rows = principle_preferences(compared(2), DIRECT, SWAPPED, PRINCIPLES, Key(5), CALM)
    turned = principle_preferences(compared(2, turned=True), -DIRECT, -SWAPPED, PRINCIPLES, Key(5), CALM)
    assert [(r.id, r.prompt.text, r.chosen, r.rejected) for r in rows] == [(r.id, r.prompt.text, r.chosen, r.rejected) for r in turned]
    assert {r.id for r in rows} >= {"1/0", "1/1", "1/2"}  # the second comparison has no silent principle
    for row in rows:
        text = str(row.prompt.text)
        signs = {t: s for p, sign in zip(PRINCIPLES, (1, 1), strict=True) for t, s in ((p.text, sign), (p.opposite, -sign))}
        listed = [line[2:] for line in text.splitlines() if line.startswith("- ")]
        scores = SCORES[int(row.id[0])]
        said = [signs[t] * scores[0 if t in ("be short", "be long") else 1] for t in listed]
        strongest = max(said, key=abs)
        assert row.chosen.text.startswith("a" if strongest > 0 else "b")
        assert strongest != 0
    # flipped labels: every row the other way round
    always = PrincipleDraws(passes=3, flip_share=1.0)
    flipped = principle_preferences(compared(2), DIRECT, SWAPPED, PRINCIPLES, Key(5), always)
    assert [(r.chosen, r.rejected) for r in flipped] == [(r.rejected, r.chosen) for r in rows]
    ruled = principle_preferences(compared(2), DIRECT, SWAPPED, PRINCIPLES, Key(5), CALM, rules=[-1, -1])
    assert all(r.chosen.text.startswith("b") for r in ruled)


def test_disagreement_teaches_nothing() -> None:
    assert principle_preferences(compared(2), DIRECT, -DIRECT, PRINCIPLES, Key(5), CALM) == []


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(UserError, match=r"shape \(2, 2\), not \(3, 2\)"):
        principle_preferences(compared(3), DIRECT, SWAPPED, PRINCIPLES, Key(5))
    broken = np.where(DIRECT == 3.0, np.nan, DIRECT)
    with pytest.raises(UserError, match="row 1, principle 'kind'"):
        principle_preferences(compared(2), DIRECT, broken, PRINCIPLES, Key(5))
    with pytest.raises(UserError, match="1 entries, not 2"):
        principle_preferences(compared(2), DIRECT, SWAPPED, PRINCIPLES, Key(5), rules=[0])


def test_principles_stand_behind_the_prompt() -> None:
    assert with_principles("q", []) == "q"
    text = with_principles("q", ["be short", "be kind"])
    assert isinstance(text, str)
    assert text.startswith("q\n\n")
    assert text.endswith("\n- be short\n- be kind\n")
    turns: Conversation = (Message(role="system", content="s"), Message(role="user", content="q"))
    found = with_principles(turns, ["be short"])
    assert not isinstance(found, str)
    assert found[0] == turns[0]
    assert found[1]["role"] == "user"
    assert found[1]["content"].endswith("- be short")


class Asked:
    """Remembers what it was asked."""

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: object = None) -> torch.Tensor:
        self.prompts, self.sequences = list(prompts), sequences
        return torch.tensor([float(len(str(p))) for p in prompts])


def test_the_list_steers_the_reward() -> None:
    inner = Asked()
    reward = PrincipleReward(inner)
    replies, tokens = [Reply(text="x")], object()
    assert reward.score(["q"], replies, tokens).tolist() == [1.0]  # type: ignore[arg-type]
    assert inner.sequences is tokens
    reward.principles = ("be kind",)
    reward.score(["q"], replies, tokens)  # type: ignore[arg-type]
    assert inner.prompts == [with_principles("q", ["be kind"])]
    assert inner.sequences is None  # the policy's tokens hold no principles
