"""The numbers of the three links, on tables so small that they can be counted."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.headline import headlines
from trueup.mismatch.headlines.number import Headline, HeadlineSettings
from trueup.mismatch.policy_evaluation.tracking import Tracking

PROMPTS = 12


def rows(values, arm: str = "a", step: float = 0, split: str = "test") -> pd.DataFrame:
    """One row a reply: ``values`` maps columns to [P, K]."""
    prompts, replies = np.shape(values["proxy_fixed"] if "proxy_fixed" in values else values["scores.rm"])
    return pd.DataFrame(
        {
            "arm": arm,
            "step": step,
            "split": split,
            "prompt_id": np.repeat([f"p{i:02d}" for i in range(prompts)], replies),
            "sample_id": [f"{arm}:{step}:{i}:{k}" for i in range(prompts) for k in range(replies)],
            "response": "words",
            **{name: np.ravel(v) for name, v in values.items()},
        }
    )


def of(frame: pd.DataFrame, link: str, **settings) -> Headline:
    found = headlines(frame, "a", HeadlineSettings(draws=200, **settings), Tracking(), Key(0))
    return next(h for h in found if h.link == link)


def pair(low: float, high: float, prompts: int = PROMPTS) -> np.ndarray:
    return np.tile([low, high], (prompts, 1))


def labelled(frame: pd.DataFrame, comparisons: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Labels (annotator, this, other, preference for this) written on the first of both."""
    said: dict[str, list[dict[str, object]]] = {}
    for annotator, this, other, preference in comparisons:
        said.setdefault(this, []).append({"annotator": annotator, "other_sample_id": other, "preference": preference})
    return frame.assign(labels=[said.get(s, []) for s in frame["sample_id"]])


def test_promise_kept_is_gain_over_slope_times_rise() -> None:
    # slope: gold moves by 1 where the proxy moves by 2, so 1/2; the proxy rises by 3, which promises 1.5; gold rises by 0.6: 0.6 / 1.5 =
    # 0.4
    # prompts with a higher proxy have a lower gold, which says nothing about replies to one prompt
    level = np.arange(PROMPTS)[:, None]
    first = rows({"proxy_fixed": pair(-1, 1) + level, "gold": pair(-0.5, 0.5) - 3 * level})
    last = rows({"proxy_fixed": pair(2, 4) + level, "gold": pair(0.6, 0.6) - 3 * level}, step=10)
    found = of(pd.concat([first, last]), "reward_policy")
    assert found.basis == "gold"
    assert found.estimate.value == pytest.approx(0.4)
    assert {e.name: e.value for e in found.parts} == pytest.approx(
        {"slope_of_gold_on_proxy": 0.5, "proxy_gain": 3, "gain_promised": 1.5, "gain": 0.6}
    )
    # other scales and origins of either score change nothing
    other = pd.concat([first, last]).assign(proxy_fixed=lambda f: 10 * f["proxy_fixed"] - 3, gold=lambda f: 0.1 * f["gold"] + 7)
    assert of(other, "reward_policy").estimate.value == pytest.approx(0.4)


@pytest.mark.parametrize(("gold_at_last", "expected"), [(2.0, 1.0), (-1.0, 0.0)])
def test_promise_kept_stays_between_0_and_1(gold_at_last: float, expected: float) -> None:
    first = rows({"proxy_fixed": pair(-1, 1), "gold": pair(-0.5, 0.5)})
    last = rows({"proxy_fixed": pair(2, 4), "gold": pair(gold_at_last, gold_at_last)}, step=10)
    estimate = of(pd.concat([first, last]), "reward_policy").estimate
    assert (estimate.value, estimate.low, estimate.high) == (expected, expected, expected)


def test_promise_kept_says_what_is_missing() -> None:
    first, last = (
        rows({"proxy_fixed": pair(-1, 1), "gold": pair(-0.5, 0.5)}),
        rows({"proxy_fixed": pair(2, 4), "gold": pair(1, 1)}, step=10),
    )
    assert "one checkpoint" in of(first, "reward_policy").why
    assert "the proxy is not shown to have risen" in of(pd.concat([first, last.assign(proxy_fixed=-1.0)]), "reward_policy").why
    assert "not shown to rise with the proxy" in of(pd.concat([first.assign(gold=-first["gold"]), last]), "reward_policy").why
    assert "no gold and no labels" in of(pd.concat([first, last]).drop(columns="gold"), "reward_policy").why
    absent = of(pd.concat([first, last]).drop(columns="proxy_fixed").assign(proxy_fixed=np.nan), "reward_policy")
    assert absent.estimate.value is None
    assert absent.basis is None
    assert "proxy_fixed was not recorded" in absent.why
    assert "proxy_fixed was not recorded" in absent.why


def test_promise_by_labels() -> None:
    # at the first checkpoint the reply with a proxy higher by 1 wins 36 of 48 comparisons: slope log 3. The last checkpoint's proxy is
    # higher by 2, so it should win 9 of 10 (odds 3^2), 0.4 above one half; it wins 0.7 of a comparison each (a tie counts half): 0.2
    # above; 0.2 / 0.4 = 0.5
    first, last = rows({"proxy_fixed": pair(0, 1, 48)}), rows({"proxy_fixed": pair(2, 2, 48)}, step=10)
    near = [("x", f"a:0:{i}:1", f"a:0:{i}:0", float(i < 36)) for i in range(48)]
    far = [("x", f"a:10:{i}:0", f"a:0:{i}:0", 0.7) for i in range(48)]
    found = of(labelled(pd.concat([first, last]), near + far), "reward_policy")
    assert found.basis == "labels"
    assert found.estimate.value == pytest.approx(0.5, abs=1e-6)
    assert {e.name: e.value for e in found.parts} == pytest.approx(
        {"slope_of_labels_on_proxy": math.log(3), "gain_promised": 0.4, "gain": 0.2}, abs=1e-6
    )
    # of 12 comparisons 9 do not show that the proxy is worth anything
    few = of(labelled(pd.concat([first, last]), near[27:39] + far), "reward_policy")
    assert few.basis is None
    assert "no win promised" in few.why


def test_signal_used_is_twice_the_accuracy_less_one() -> None:
    # 9 of 12 pairs in gold's order: accuracy 3/4, so half of the way from chance to 1
    gold = pair(0, 1)
    gold[9:] = [1, 0]
    found = of(rows({"proxy_fixed": pair(0, 1), "gold": gold}), "reward_evaluation")
    assert (found.basis, found.estimate.value, found.estimate.n) == ("gold", pytest.approx(0.5), 12)


def test_signal_used_by_evaluations_weighs_them_alike() -> None:
    # quiz_correct prefers the second reply by 1, flattery (lower is better) the first by 10: each over its standard deviation, 1/2 and 5,
    # the two cancel; of three, two for the second, the second wins in all pairs, as the proxy says
    values = {"proxy_fixed": pair(0, 1), "evaluations.quiz_correct": pair(0, 1), "evaluations.flattery": pair(0, 10)}
    even = of(rows(values), "reward_evaluation")
    assert even.estimate.value is None
    assert "tells replies apart on 0 prompts" in even.why
    found = of(rows({**values, "evaluations.task_correct": pair(0, 1)}), "reward_evaluation")
    assert (found.basis, found.estimate.value, set(found.over)) == ("evaluations", 1.0, {"quiz_correct", "flattery", "task_correct"})


def test_signal_used_against_repeated_labels() -> None:
    # 48 pairs with two votes each: 36 unanimous, 12 split, so E d^2 = (36 - 12) / 48 = 1/2 and the ceiling is (1 + sqrt(1/2)) / 2. The
    # score is with the votes in 27 of the unanimous pairs: accuracy against one vote (27 + 6) / 48 = 0.6875. (2 * 0.6875 - 1) / sqrt(1/2)
    # = 0.53033
    test = rows({"proxy_fixed": pair(0, 1), "scores.rm": pair(0, 1)})
    offline = rows({"scores.rm": pair(0, 1, 48)}, arm="offline", step=np.nan, split="validation")
    votes = []
    for i in range(48):
        one = 1.0 if i < 27 else 0.0
        other = one if i < 36 else 1 - one
        votes += [(who, f"offline:nan:{i}:1", f"offline:nan:{i}:0", v) for who, v in (("x", one), ("y", other))]
    found = of(labelled(pd.concat([test, offline]), votes), "reward_evaluation", basis="labels")
    assert found.basis == "labels"
    assert found.estimate.value == pytest.approx(0.375 / math.sqrt(0.5))
    # with one annotator's votes alone the ceiling is unknown: 27 of 48 right, 2 * 27/48 - 1
    single = of(labelled(pd.concat([test, offline]), votes[::2]), "reward_evaluation", basis="labels")
    assert (single.basis, single.estimate.value) == ("labels, no ceiling", pytest.approx(2 * 27 / 48 - 1))


def path(proxy, **evaluations) -> pd.DataFrame:
    """Checkpoints at which all replies are alike."""
    return pd.concat(
        [
            rows({"proxy_fixed": pair(p - 1, p + 1)} | {f"evaluations.{n}": pair(v[s], v[s]) for n, v in evaluations.items()}, step=10 * s)
            for s, p in enumerate(proxy)
        ]
    )


def test_moved_along_is_the_better_share_of_all_movement() -> None:
    # quiz: 0, 1, 1 has deviation sqrt(2)/3 over replies and climbs by 1; flattery (lower is better) 0, 0, 2 has twice that and gets worse
    # by 2, as many deviations: half of the movement is for the better
    found = of(path([0, 1, 2], quiz_correct=[0, 1, 1], flattery=[0, 0, 2]), "policy_evaluation")
    assert (found.basis, found.estimate.value) == ("evaluations", pytest.approx(0.5))
    assert [e.value for e in found.parts] == pytest.approx([3 / math.sqrt(2), 3 / math.sqrt(2)])
    assert "worse: flattery" in found.why
    # climbing to 1 and falling back to 1/2: 1 for the better, 1/2 for the worse
    assert of(path([0, 1, 2], quiz_correct=[0, 1, 0.5]), "policy_evaluation").estimate.value == pytest.approx(2 / 3)
    # nobody said which side of rhyme is better
    assert "better side is known" in of(path([0, 1, 2], rhyme=[0, 1, 2]), "policy_evaluation").why


def test_a_collapse_of_both_is_no_mismatch() -> None:
    # the evaluation falls back while the proxy falls too: only the climb counts
    assert of(path([0, 2, 1], quiz_correct=[0, 1, 0.2]), "policy_evaluation").estimate.value == pytest.approx(1.0)
    assert of(path([0, 2, 2], quiz_correct=[0, 1, 0.2]), "policy_evaluation").estimate.value == pytest.approx(1 / 1.8)


def test_what_did_not_move_counts_nothing() -> None:
    still = path([0, 1, 2], quiz_correct=[0.5, 0.5, 0.5])
    noise = Key(1).generator().normal(0, 1, len(still))
    found = of(still.assign(**{"evaluations.quiz_correct": noise}), "policy_evaluation")
    assert found.estimate.value is None
    assert "no movement is shown of quiz_correct" in found.why


def test_too_few_prompts_and_no_rows() -> None:
    few = rows({"proxy_fixed": pair(-1, 1, 4), "gold": pair(0, 1, 4)})
    assert all("4 prompts, at least 10" in h.why for h in headlines(few, "a", HeadlineSettings(), Tracking(), Key(0)))
    assert all("no test rows" in h.why for h in headlines(few, "b", HeadlineSettings(), Tracking(), Key(0)))
