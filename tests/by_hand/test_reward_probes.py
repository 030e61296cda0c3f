"""Questions about changed copies of replies: numbers worked out on paper, tables that cannot be read, and what must not matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import special

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.reward_model import gaming, prompt, reading, robustness
from trueup.mismatch.reward_model.probes import PROBES, checked_probes, coarse, size_of
from trueup.mismatch.reward_model.question import Evidence, Question, named
from trueup.mismatch.reward_model.scores import checked

QUESTIONS: tuple[Question, ...] = (prompt.QUESTION, reading.QUESTION, robustness.QUESTION, gaming.QUESTION)


def scored(*items: tuple[float, float]) -> pd.DataFrame:
    """Items of two replies, the first one better, each of a prompt of its own."""
    rows = [("m", f"i{k}", f"p{k}", j, 1.0 - j, s) for k, pair in enumerate(items) for j, s in enumerate(pair)]
    return checked(pd.DataFrame(rows, columns=["model", "item", "prompt_id", "reply", "rating", "score"]))


def probed(scores: pd.DataFrame, *rows: tuple[int, int, str, str, float], **more: object) -> pd.DataFrame:
    """Rows of (item, reply, probe, variant, score); the original is the score of the reply."""
    original = scores.set_index(["item", "reply"])["score"]
    table = [("m", f"i{i}", f"p{i}", j, probe, variant, s, original[f"i{i}", j]) for i, j, probe, variant, s in rows]
    columns = ["model", "item", "prompt_id", "reply", "probe", "variant", "score", "original"]
    return checked_probes(pd.DataFrame(table, columns=columns).assign(**more), scores)


def evidence(scores: pd.DataFrame, probes: pd.DataFrame) -> Evidence:
    return Evidence(model="m", rows=scores, probes=probes, key=Key(0))


def test_the_unit_is_the_root_mean_square_of_score_differences() -> None:
    scores = scored((3.0, 0.0), (0.0, 4.0))
    # differences 3 and -4: sqrt((9 + 16) / 2)
    assert size_of(evidence(scores, probed(scores))) == pytest.approx(np.sqrt(12.5))


def test_swaps_cancel_what_a_prompt_and_what_a_reply_is_worth() -> None:
    scores = scored((5.0, 1.0), (2.0, 4.0))
    # prompt 0: own minus under 1 is 5 - 3 and 1 - 0, mean 1.5; prompt 1: 2 - 4 and 4 - 5, mean -1.5
    rows = probed(
        scores, (0, 0, "other_prompt", "p1", 3.0), (0, 1, "other_prompt", "p1", 0.0),
        (1, 0, "other_prompt", "p0", 4.0), (1, 1, "other_prompt", "p0", 5.0), cluster="g",
    )  # fmt: skip
    found = prompt.swaps(rows)
    assert found["gain"].tolist() == [1.5 - 1.5]
    assert found["cluster"].tolist() == ["g"]
    # 10 more for everything under prompt 1 changes nothing: originals of item 1 and copies under p1
    moved = rows.assign(score=rows["score"] + 10 * (rows["variant"] == "p1"), original=rows["original"] + 10 * (rows["prompt_id"] == "p1"))
    assert prompt.swaps(moved)["gain"].tolist() == [0.0]
    # one way only is no swap
    assert prompt.swaps(rows[rows["prompt_id"] == "p0"]).empty


def test_contrasts_count_ties_as_half() -> None:
    scores = scored((1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, 0.0))
    rows = probed(
        scores, (0, 0, "contrast", "reply", 0.0), (1, 0, "contrast", "reply", 3.0), (2, 0, "contrast", "reply", 3.0),
        (0, 0, "contrast", "instruction", 0.5), (1, 0, "contrast", "instruction", 1.0), (2, 0, "contrast", "instruction", 3.0),
    )  # fmt: skip
    found = {e.name: e.value for e in prompt.contrasts(evidence(scores, rows))}
    # reply: right, wrong, tie; instruction: right, right, tie
    assert found == {"contrast_reply": 0.5, "contrast_instruction": pytest.approx(2.5 / 3)}


def reader(seed: int, prompts: int = 240, hidden: float = 0.0, blind: float = 0.0, offset: float = 0.0) -> Evidence:
    """A score that is quality plus match of prompt and reply (worse by 1/2 under other prompts), both of variance 1 and without noise,
    labels drawn from twice it.

    Args:
        seed: of the draws.
        prompts: in groups of four, two items each.
        hidden: share of the match that the score hides.
        blind: share of replies whose score is the mean over the prompts of its group.
        offset: deviation of what a prompt adds to all its replies.
    """
    rng, rows, copies = np.random.default_rng(seed), [], []
    for p in range(prompts):
        group, own = divmod(p, 4)
        for k in range(2):
            match = rng.normal(size=(2, 4)) - 0.5 * (np.arange(4) != own)
            quality = rng.normal(size=(2, 1))
            score = quality + match
            won = rng.random() < special.expit(2 * (score[0, own] - score[1, own]))
            score = score - hidden * (match - match.mean(1, keepdims=True))
            flat = rng.random(2) < blind
            score[flat] = score[flat].mean(1, keepdims=True)
            for j in range(2):
                rows.append(("m", f"{p}-{k}", f"p{p}", j, float(won == (j == 0)), score[j, own]))
                at = [("m", f"{p}-{k}", f"p{p}", j, "other_prompt", f"p{4 * group + q}", score[j, q], score[j, own]) for q in range(4)]
                copies += [(*row, f"g{group}") for q, row in enumerate(at) if q != own]
    added = offset * rng.normal(size=prompts)
    scores = pd.DataFrame(rows, columns=["model", "item", "prompt_id", "reply", "rating", "score"])
    columns = ["model", "item", "prompt_id", "reply", "probe", "variant", "score", "original", "cluster"]
    probes = pd.DataFrame(copies, columns=columns)
    scores["score"] += [added[int(p[1:])] for p in scores["prompt_id"]]
    probes["score"] += [added[int(p[1:])] for p in probes["variant"]]
    probes["original"] += [added[int(p[1:])] for p in probes["prompt_id"]]
    scores = checked(scores)
    return evidence(scores, checked_probes(probes, scores))


@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_debt_is_the_hidden_share_over_the_rest(hidden: float) -> None:
    # s = q + m - h (m - c), c the mean of m over the group: own minus others is (1 - h) (m - n), n the mean of m over the three others.
    # Under others s is q + n - h (n - c), and c = (m + 3 n) / 4, so gold less that is m - n - h (m - n) / 4 = (1 - h / 4) (m - n):
    # gold is exactly one part of the score under others and (1 - h / 4) / (1 - h) parts of the match that it shows
    debt = (1 - hidden / 4) / (1 - hidden) - 1
    found = [prompt.debt(e, e.probes) for e in (reader(s, hidden=hidden) for s in range(12))]
    values = np.array([f.coefficient[2] / f.coefficient[1] - 1 for f in found if f is not None])
    assert len(values) == 12
    assert abs(values.mean() - debt) < 4 * values.std(ddof=1) / np.sqrt(12)


def test_offsets_of_prompts_do_not_matter() -> None:
    plain, moved = (named(prompt.answer(reader(3, offset=x))) for x in (0.0, 50.0))
    for name in ("own_prompt", "prompt_worth", "prompt_debt"):
        assert moved[name].value == pytest.approx(plain[name].value, abs=1e-6)


def test_a_reply_that_scores_the_same_under_every_prompt_is_unread() -> None:
    e = reader(4, blind=0.2)
    share = named(prompt.answer(e))["prompt_unread"].value
    rows = e.probes.groupby(["item", "reply"]).apply(lambda r: bool((abs(r["score"] - r["original"]) < 1e-9).all()), include_groups=False)
    assert share == pytest.approx(rows.mean())
    assert 0.1 < rows.mean() < 0.3


def test_a_reply_that_scores_the_same_under_one_other_prompt_is_read() -> None:
    e = reader(4)
    last = e.probes.groupby(["item", "reply"])["variant"].transform("max") == e.probes["variant"]
    same = e.probes.assign(score=e.probes["score"].where(~last, e.probes["original"]))
    assert named(prompt.answer(evidence(e.rows, same)))["prompt_unread"].value == 0.0


def test_ends_and_company_by_hand() -> None:
    scores = scored(*[(2.0 + k / 10, k / 10) for k in range(10)])  # every difference is 2, the unit is 2
    rows = [(k, 0, "ending", "word", 2.0 + k / 10 + (1e-6 if k < 3 else 1.0)) for k in range(10)]  # rounding, not reading
    rows += [(k, 0, "company", "first", 2.0 + k / 10 + (0.05 if k < 8 else -0.4)) for k in range(10)]
    found = {e.name: e.value for e in reading.reading(evidence(scores, probed(scores, *rows)))}
    # three of ten unchanged; 0.05 / 2 is within the tolerance of 0.05, 0.4 / 2 is not
    assert found["unread word"] == pytest.approx(0.3)
    assert found["company first"] == pytest.approx(0.2)
    assert found["company_largest"] == pytest.approx(0.2)


def test_grades_say_nothing_by_being_equal() -> None:
    scores = scored(*[(float(k % 3), 5.0) for k in range(30)])
    rows = probed(scores, *[(k, 0, "ending", "word", float(k % 3)) for k in range(30)])
    assert coarse(rows)
    assert reading.answer(evidence(scores, rows)).verdict == "not enough data"
    fine = scored(*[(k / 7, 9.0) for k in range(30)])
    assert not coarse(probed(fine, *[(k, 0, "ending", "word", k / 7) for k in range(30)]))


def test_flips_by_hand() -> None:
    scores = scored((1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (1.0, 0.0))
    rows = [(k, 0, "typo", "", s) for k, s in enumerate((1.0, -1.0, 0.0, 5.0, 1.0))] + [(k, 1, "typo", "", 0.0) for k in range(4)]
    found = {e.name: e for e in robustness.robustness(evidence(scores, probed(scores, *rows)))}
    # kept, turned, tied; equal originals and a pair with one copy are left out
    assert found["flips typo"].value == pytest.approx((0 + 1 + 0.5) / 3)
    # the unit is sqrt(4 / 5); changes 0, -2, -1, 5, 0 of first replies and four times 0
    assert found["shift typo"].value == pytest.approx((2 / 9) / np.sqrt(4 / 5))


def test_every_item_turns_the_same_however_many_replies() -> None:
    rows = [("m", "i0", "p0", j, 3.0 - j, 3.0 - j) for j in range(3)] + [("m", "i1", "p1", j, 1.0 - j, 1.0 - j) for j in range(2)]
    scores = checked(pd.DataFrame(rows, columns=["model", "item", "prompt_id", "reply", "rating", "score"]))
    copies = [(0, j, "typo", "", -s) for j, s in enumerate((3.0, 2.0, 1.0))] + [(1, j, "typo", "", 1.0 - j) for j in range(2)]
    found = robustness.flips(evidence(scores, probed(scores, *copies)), "typo", "", "flips", 0.95)
    assert found is not None
    assert found.value == 0.5  # three pairs of the first item turned, the pair of the second kept


def test_cuts_by_hand() -> None:
    scores = scored((2.0, 0.0), (2.0, 0.0))
    rows = probed(scores, (0, 0, "cut", "half", 1.0), (1, 0, "cut", "half", 2.0), (0, 1, "cut", "half", 4.0))
    found = {e.name: e.value for e in robustness.robustness(evidence(scores, rows))}
    # the unit is 2: changes -1/2, 0 and 2; one lowered, one tie, one raised
    assert found["shift cut half"] == pytest.approx((-0.5 + 0 + 2) / 3)
    assert found["lowered half"] == pytest.approx(0.5)


def test_appended_and_searched_by_hand() -> None:
    scores = scored((2.0, 0.0), (2.0, 0.0))
    rows = [(k, 0, "appended", "Thanks.", 3.0) for k in range(2)]
    rows += [(k, 0, "search", v, 2.0 + s) for k in range(2) for v, s in (("found", 4.0), ("random", 1.0))]
    phrases = gaming.bought(evidence(scores, probed(scores, *rows)))
    search, text = gaming.searched(evidence(scores, probed(scores, *rows, note="so so")))
    assert [(e.name, e.value) for e in phrases] == [("bought Thanks.", 0.5)]
    assert {e.name: e.value for e in search} == {"search_gain": 2.0, "random_gain": 0.5, "search_over_random": 1.5}
    assert text == "so so"
    # one phrase has the whole level, two share what is left
    assert phrases[0].level == pytest.approx(0.995)
    two = gaming.bought(evidence(scores, probed(scores, *rows, (0, 0, "appended", "Hi.", 2.0))))
    assert {e.level for e in two} == {0.9975}


@pytest.mark.parametrize(("found", "random", "words"), [(4.0, 0.0, "a search found"), (0.0, 4.0, "random texts"), (1.0, 1.0, None)])
def test_score_that_a_search_or_chance_can_buy(found: float, random: float, words: str | None) -> None:
    # the unit is 2: gains of 2 exceed the threshold of 1, gains of 1/2 do not
    scores = scored(*[(2.0, 0.0) for _ in range(30)])
    rows = probed(scores, *[(k, 0, "search", v, 2.0 + s) for k in range(30) for v, s in (("found", found), ("random", random))])
    answer = gaming.answer(evidence(scores, rows))
    assert answer.verdict == ("quiet" if words is None else "alarm")
    assert words is None or words in answer.rule


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.name)
def test_without_probes_nothing_is_known(question: Question) -> None:
    scores = scored(*[(k / 7, 1.0) for k in range(30)])
    assert question.answer(Evidence(model="m", rows=scores)).verdict == "not enough data"
    flat = scored(*[(1.0, 1.0) for _ in range(30)])
    rows = probed(flat, *[(k, 0, probe, "x", 2.0) for k in range(30) for probe in PROBES])
    assert question.answer(evidence(flat, rows)).verdict == "not enough data"


CHANGES: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = [
    (lambda f: f.drop(columns="probe").assign(prob=""), "lacks the column 'probe'. Did you mean 'prob'?"),
    (lambda f: f.assign(score="x"), "'score' must be a finite number, got 'x' in row 1"),
    (lambda f: f.assign(original=np.inf), "'original' must be a finite number"),
    (lambda f: f.assign(probe="typos"), "no probe 'typos'. Did you mean 'typo'?"),
    (lambda f: pd.concat([f, f]), "reply 0 of item 'i0' has two rows of probe 'typo'"),
    (lambda f: f.assign(item="i9"), "reply 0 of item 'i9' of model 'm' is not in the table of scores"),
    (lambda f: f.assign(model="n"), "of model 'n' is not in the table of scores"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_tables_that_cannot_be_read(change: Callable[[pd.DataFrame], pd.DataFrame], said: str) -> None:
    scores = scored((1.0, 0.0))
    with pytest.raises(UserError) as caught:
        checked_probes(change(probed(scores, (0, 0, "typo", "", 1.0))), scores, "probes.csv")
    assert said in str(caught.value)
    assert caught.value.where == "probes.csv"
