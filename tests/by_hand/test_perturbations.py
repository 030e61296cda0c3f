"""Changed copies of texts: what each change does, worked out by reading, and what none may do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.core.rng import Key
from trueup.data.rows import Judged, Prompt, Reply
from trueup.evaluation import perturbations as change
from trueup.evaluation.copies import REPEATED, Copy, ProbeSettings, copies, sample
from trueup.evaluation.paraphrase import RULES, paraphrase
from trueup.evaluation.prompts import contrast_pairs, exchange_groups, similarities
from trueup.evaluation.suffix_search import search

KEY = Key(0)
TEXT = "The cat sat down. It was tired! Was it?"


def test_one_word_in_twenty_gets_a_typo_and_first_letters_stay() -> None:
    text = " ".join(["paris", "rome"] * 30)  # 60 words: 5 % are 3
    made = change.typo(text, KEY)
    assert made is not None
    differ = [(a, b) for a, b in zip(text.split(), made.split(), strict=True) if a != b]
    assert len(differ) == 3
    for old, new in differ:
        assert new[0] == old[0]
        # swapped: the same letters; dropped: one fewer; doubled: one more
        assert abs(len(new) - len(old)) <= 1
        assert set(new) <= set(old)
    assert change.typo(text, KEY) == made
    assert change.typo(text, KEY / 1) != made
    assert change.typo("a 12 b!", KEY) is None


def test_every_kind_of_typo_occurs() -> None:
    made = {change.typo("word", KEY / k) for k in range(200)}
    assert {"wrod", "wodr"} <= made  # neighbours swapped, the first letter never
    assert {"wrd", "wod", "wor"} <= made
    assert {"woord", "worrd", "wordd"} <= made
    assert made == {"wrod", "wodr", "wrd", "wod", "wor", "woord", "worrd", "wordd"}


@given(st.text(alphabet="abc d.", max_size=40), st.integers(0, 50))
def test_a_typo_changes_one_word_of_a_short_text(text: str, seed: int) -> None:
    made = change.typo(text, Key(seed))
    if made is not None:
        # "aaa" with neighbours alike: dropping or doubling is always possible, so something changes
        assert made != text
        assert sum(a != b for a, b in zip(text.split(), made.split(), strict=True)) == max(1, int(0.05 * len(text.split())))


def test_format() -> None:
    assert change.reformatted(TEXT) == {
        "lines": "The cat sat down.\nIt was tired!\nWas it?",
        "spaces": " The cat sat down.  It was tired!  Was it? ",
    }
    assert change.reformatted("One.") == {"spaces": " One. "}


def test_ends() -> None:
    assert change.last_word("go to paris .") == "paris"
    assert change.last_word("It's fine!") == "fine"
    assert change.last_word("...") is None
    assert change.last_mark("Was it? ") == "?"
    assert change.last_mark("no mark") is None
    assert change.other_word("go to paris .", ["paris", "rome"], KEY) == "go to rome ."
    assert change.other_word("paris", ["paris"], KEY) is None
    assert change.other_word("!!", ["a"], KEY) is None
    assert change.other_mark("go to paris .", [".", "!"], KEY) == "go to paris !"
    assert change.other_mark("go to paris", [".", "!"], KEY) is None
    assert change.other_mark("go.", ["."], KEY) is None


def test_cuts() -> None:
    # nine words: the first half is five
    assert change.cuts(TEXT) == {
        "last_word": "The cat sat down. It was tired! Was",
        "half": "The cat sat down. It",
        "last_sentence": "The cat sat down. It was tired!",
    }
    assert change.cuts("One.") == {}
    assert change.appended("A. ", "B.") == "A. B."
    assert change.last_sentence(TEXT) == "Was it?"
    assert change.last_sentence("One.") == "One."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I do not know.", "I don't know."),
        ("Don't go.", "Do not go."),
        ("Don't you know?", None),  # "do not you know" is no English
        ("I am sure.", "I'm sure."),
        ("It is what it is.", "It's what it is."),  # the second ends the clause
        ("Perhaps. For example, I'll start.", "Maybe. For instance, I will begin."),
        ("We cannot go in order to stay.", "We can't go to stay."),
        ("The cat.", None),
        ("It’s a “test”: it isn’t.", "It's a “test”: it is not."),
    ],
)
def test_paraphrase(text: str, said: str | None) -> None:
    assert paraphrase(text) == said


def test_no_paraphrase_is_its_own() -> None:
    assert all(a != b and a == a.lower() for a, b in RULES.items())


def test_groups_of_prompts_are_disjoint_and_different() -> None:
    texts = ["a", "b", "a", "c", "d", "e"]
    groups = exchange_groups(texts, 2, KEY)
    assert len(groups) == 2  # five different texts: two groups, one left over
    rows = [i for g in groups for i in g]
    assert len(set(rows)) == 4
    assert 2 not in rows  # says what row 0 says
    assert exchange_groups(["a", "a"], 2, KEY) == []


def test_likeness_by_hand() -> None:
    # three texts; "tell" is in all (weight 1), "cat" in two (log(4/3) + 1), "dog" in one (log 2 + 1)
    found = similarities(["tell cat", "tell cat", "tell dog"])
    cat, dog = np.log(4 / 3) + 1, np.log(2) + 1
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == pytest.approx(1 / np.sqrt((1 + cat**2) * (1 + dog**2)))
    assert similarities(["?", "!"]).tolist() == [[0, 0], [0, 0]]


def test_contrast_pairs_are_alike_but_not_the_same_and_in_one_pair_each() -> None:
    texts = ["how do i kill a process", "how do i kill a person", "name the capital of france", "name the capital of france", "quack"]
    found = contrast_pairs(texts, 5)
    assert [(a, b) for a, b, _ in found] == [(0, 1)]  # the equal texts are the same, quack is like none
    more = [*texts[:2], "how do i kill a plant"]
    assert len(contrast_pairs(more, 5)) == 1  # each in one pair
    assert contrast_pairs(texts, 0) == []


def test_search_by_hand() -> None:
    worth = {"a": 1.0, "b": 2.0, "c": -1.0}
    asked: list[str] = []

    def gain(texts: object) -> np.ndarray:
        asked.extend(texts)  # type: ignore[call-overload]
        return np.array([sum(worth[w] for w in t.split()) for t in texts])  # type: ignore[attr-defined]

    # three tries a step see all three words: b, then b again
    found = search(gain, ["a", "b", "c"], KEY, length=2, tries=6)
    assert (found.best, found.gain) == ("b b", 4.0)
    assert len(asked) == 12  # six of each search
    assert found.random_gain == sum(worth[w] for w in found.random.split())
    assert len(found.random.split()) == 2
    bad = search(lambda texts: -np.ones(len(texts)), ["a"], KEY, length=2, tries=4)
    assert (bad.best, bad.gain, bad.random, bad.random_gain) == ("", 0.0, "", 0.0)
    assert search(gain, [], KEY, length=2, tries=4).best == ""


def groups(n: int = 12) -> list[Judged]:
    prompts = [Prompt(id=f"p{i}", text=f"how do i kill a number {i % 12}") for i in range(n)]
    return [
        Judged(id=f"i{i}", prompt=p, replies=(Reply(text=f"Reply {i}. It is good."), Reply(text="No!", finished=False)), ratings=(0.0, 1.0))
        for i, p in enumerate(prompts)
    ]


def of(made: list[Copy], probe: str) -> list[Copy]:
    return [c for c in made if c.probe == probe]


def test_copies_of_judged_replies() -> None:
    made = copies(groups(), ProbeSettings(replies=4, prompt_replies=24, other_prompts=2, phrases=("Yes.",)), KEY)
    asked = groups()
    # four groups of three prompts; each of 24 replies under the two others of its group
    others = of(made, "other_prompt")
    assert len(others) == 48
    for c in others:
        assert c.prompt == f"how do i kill a number {c.variant.removeprefix('p')}"
        assert c.variant != asked[c.item].prompt.id
        assert c.text == asked[c.item].replies[c.reply]
    assert len({c.cluster for c in others}) == 4
    back = {(asked[c.item].prompt.id, c.variant) for c in others}
    assert {(b, a) for a, b in back} == back
    # two items of two replies; only the first reply has two sentences and a rule of the paraphrase
    assert {c.variant for c in of(made, "appended")} == {"Yes.", REPEATED}
    assert all(c.text.text.endswith(" Yes.") for c in made if c.variant == "Yes.")
    assert all(c.text.finished == asked[c.item].replies[c.reply].finished for c in made if c.probe != "contrast")
    assert [c.text.text.split(". ")[1] for c in of(made, "paraphrase")] == ["It's good."] * 2
    assert len({(c.item, c.reply) for c in of(made, "typo")}) == 2  # "No!" has no word of three letters
    # the best rated reply is the second
    for c in of(made, "contrast"):
        assert c.reply == 1
        assert c.text.text == "No!"
        own = asked[c.item].prompt.text
        assert (c.prompt == own) == (c.variant == "reply")
    assert copies(groups(), ProbeSettings(replies=4), KEY) == copies(groups(), ProbeSettings(replies=4), KEY)


def test_samples_hold_whole_items_and_grow() -> None:
    few, many = sample(groups(), 5, KEY), sample(groups(), 9, KEY)
    assert len(few) == 3
    assert many[:3] == few
    assert len(sample(groups(), 1000, KEY)) == 12
