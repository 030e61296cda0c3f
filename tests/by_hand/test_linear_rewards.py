"""Linear reward models: words, style, penalty, stacking, what held-out margins say; numbers from the formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply, swapped
from trueup.data.splits import folds, groups_of
from trueup.models.feature_reward import FeatureReward, Featuriser, learn_features
from trueup.models.reward import load_reward
from trueup.models.stacked_reward import StackedReward, load_text_reward
from trueup.models.style import STYLE, style_of
from trueup.models.word_features import learn_words, terms
from trueup.rewards.learned import LearnedReward
from trueup.rewards.linear_fit import LinearFit, fit_linear, fit_stack
from trueup.stats.estimate import Estimate
from trueup.stats.judged_margins import difference, hits, preference_for_length, share_of_ceiling
from trueup.stats.ridge import best_scaled, fit_ridge, held_out_path, ridge_path
from trueup.stats.stacking import equal_weights, fitted_weights


def pair(i: int, chosen: str, rejected: str, prompt: str | None = None) -> Preference:
    return Preference(
        id=str(i), prompt=Prompt(id=f"p{i}", text=prompt or f"Question {i}?"), chosen=Reply(text=chosen), rejected=Reply(text=rejected)
    )


def test_terms_are_words_marks_and_neighbours() -> None:
    assert terms("Yes, yes!", 1) == {"yes": 2, ",": 1, "!": 1}
    assert terms("Yes, yes!", 2) == {"yes": 2, ",": 1, "!": 1, "yes ,": 1, ", yes": 1, "yes !": 1}


def test_rows_of_words() -> None:
    # of three texts, 'a' is in 3, 'b' in 2, 'c' in 1 (too rare): rarity 1 + log(4/4) = 1 and 1 + log(4/3)
    words = learn_words(["a a b", "a b", "a c"], least=2, longest=1)
    assert dict(words.place) == {"a": 0, "b": 1}
    rare = 1 + math.log(4 / 3)
    np.testing.assert_allclose(words.rarity, [1, rare], rtol=1e-12)
    # 'a a b': (1 + log 2) and rare, then length 1; 'z' is unknown: an empty row
    size = math.hypot(1 + math.log(2), rare)
    np.testing.assert_allclose(words.rows(["a a b", "z"]).toarray(), [[(1 + math.log(2)) / size, rare / size], [0, 0]], rtol=1e-12)


def test_style_by_name() -> None:
    found = dict(zip(STYLE, style_of("Is it 7?", "It is 42!\nI hope."), strict=True))
    # words: it is 42 i hope (5, all distinct); the conversation says is, it, 7: two of five again, three new
    assert found["characters_hundreds"] == pytest.approx(0.17)
    assert (found["questions"], found["exclamations"], found["lines_root"]) == (0, 1, 1)
    assert found["distinct_word_share"] == 1
    assert found["conversation_word_share"] == found["last_turn_word_share"] == pytest.approx(2 / 5)
    assert found["log_new_words"] == pytest.approx(math.log(4))
    assert found["first_person_share"] == pytest.approx(1 / 5)
    assert found["digit_share"] == pytest.approx(2 / 17)
    assert found["word_characters"] == pytest.approx((2 + 2 + 2 + 1 + 4) / 5)
    assert (found["ends_sentence"], found["ends_with_question"], found["has_list"]) == (1, 0, 0)
    assert dict(zip(STYLE, style_of("x", "- one\n- two"), strict=True))["has_list"] == 1
    two = ({"role": "user", "content": "red fox"}, {"role": "assistant", "content": "blue"}, {"role": "user", "content": "green"})
    last = dict(zip(STYLE, style_of(two, "red green"), strict=True))  # type: ignore[arg-type]
    assert (last["conversation_word_share"], last["last_turn_word_share"]) == (1.0, 0.5)
    assert not style_of("x", "").any()


def test_ridge_meets_its_condition_by_hand() -> None:
    # one feature, one pair with x = 2: strength w = 2 sigma(-2 w), so that strength 4 sigma(-1) gives w = 1/2
    strength = 2 * 2 * expit(-1.0)
    assert fit_ridge(np.array([[2.0]]), strength)[0] == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(ValueError, match="above 0"):
        fit_ridge(np.array([[2.0]]), 0.0)


def test_ridge_is_the_same_dense_sparse_and_along_the_path() -> None:
    x = Key(3).generator().normal(size=(60, 7)) + 0.3
    w = fit_ridge(x, 2.0)
    # gradient of the objective is 0 at the optimum
    assert np.abs(2.0 * w - x.T @ expit(-(x @ w))).max() < 1e-3
    np.testing.assert_allclose(fit_ridge(sparse.csr_array(x), 2.0), w, atol=1e-4)
    np.testing.assert_allclose(ridge_path(x, (0.5, 2.0, 8.0))[1], w, atol=1e-4)


def test_held_out_margins_are_of_weights_that_saw_other_folds() -> None:
    x = Key(4).generator().normal(size=(12, 3))
    rows = [np.arange(0, 4), np.arange(4, 12)]
    found = held_out_path(x, rows, (1.0, 10.0))
    np.testing.assert_allclose(found[1][:4], x[:4] @ fit_ridge(x[4:], 10.0), atol=1e-4)
    np.testing.assert_allclose(found[0][4:], x[4:] @ fit_ridge(x[:4], 1.0), atol=1e-4)
    # log-losses: all 0 gives log 2; +-1 gives (0.3133 + 1.3133)/2 > log 2; +1/2 gives 0.474
    assert best_scaled(np.array([[0.0, 0.0], [1.0, -1.0], [0.5, 0.5]])) == 2


def test_stacked_weights() -> None:
    # margins +-1, three of four right: the best weight is the log-odds log 3; a copy of the opposite sign gets 0
    one = np.array([1.0, 1.0, 1.0, -1.0])
    assert fitted_weights(one[None])[0] == pytest.approx(math.log(3), abs=1e-3)
    np.testing.assert_allclose(fitted_weights(np.stack([one, -one])), [math.log(3), 0], atol=1e-3)
    # equal: each calibrated by itself, then the mean: log(3)/2, and for margins of +-2 a quarter of log 3; always wrong: 0
    np.testing.assert_allclose(equal_weights(np.stack([one, 2 * one])), [math.log(3) / 2, math.log(3) / 4], rtol=1e-6)
    assert equal_weights(np.stack([one, -one]))[1] == 0


def test_a_score_is_the_sum_over_blocks() -> None:
    words = learn_words(["good good", "good", "bad", "bad"], least=2, longest=1)  # columns: bad, good; both rows of length 1
    made = Featuriser(("words", "length"), (3.0, 0.1), words)
    model = FeatureReward(made, np.array([-1.0, 2.0, 0.5]))
    # 'good': 3 * 2 + 0.1 * 4 * 0.5 = 6.2; 'bad': -3 + 0.15; unknown 'x': 0.05. Rows of different numbers of words share a table
    replies = [Reply(text=t) for t in ("good", "bad", "x")]
    np.testing.assert_allclose(model.score(model.encode(["q"] * 3, replies)).detach(), [6.2, -2.85, 0.05], rtol=1e-5)
    # 'good bad': rarities are equal, so both entries are 1/sqrt 2: 3 (2 - 1) / sqrt 2 + 0.1 * 8 * 0.5
    both = model.score(model.encode(["q"], [Reply(text="good bad")]))
    assert both.item() == pytest.approx(3 / math.sqrt(2) + 0.4, rel=1e-5)


def test_blocks_are_scaled_to_differences_of_mean_square_1() -> None:
    # lengths differ by 3 and by -1: mean square 5
    pairs = [pair(0, "aaaaa", "bb"), pair(1, "c", "dd")]
    made = learn_features(["length"], ["q", "q"], [p.chosen for p in pairs], [p.rejected for p in pairs])
    assert made.scales == (pytest.approx(1 / math.sqrt(5)),)


def planted(n: int, key: Key, right: float = 0.85) -> list[Preference]:
    """'fine' beats 'dull' in a share of the pairs; two pairs have each opening turn."""
    draws = key.generator()
    rows = []
    for i in range(n):
        noise = " ".join(f"w{int(j)}" for j in draws.integers(0, 30, size=4))
        good, bad = f"fine {noise}", f"dull {' '.join(f'w{int(j)}' for j in draws.integers(0, 30, size=4))}"
        chosen, rejected = (good, bad) if draws.random() < right else (bad, good)
        rows.append(pair(i, chosen, rejected, prompt=f"Ask {i // 2}"))
    return rows


def test_a_bag_of_words_finds_the_word_and_is_calibrated_inside() -> None:
    pairs, fresh = planted(300, Key(1)), planted(400, Key(2))
    fit = fit_linear(pairs, ["words"], Key(0), strengths=(0.3, 3.0, 30.0), inner_folds=3)
    reward, prompts = LearnedReward(fit.model), [p.prompt.text for p in fresh]
    margin = (reward.raw(prompts, [p.chosen for p in fresh]) - reward.raw(prompts, [p.rejected for p in fresh])).numpy()
    # the share planted is 0.85; four standard errors of 400 pairs are 0.071
    assert abs(hits(margin).mean() - 0.85) < 0.075
    assert fit.calibration is not None
    # the chance claimed for a pair is near the share it is right in: 0.85 planted, odds 5.7
    assert abs(fit.calibration.probability(np.abs(margin)).mean() - 0.85) < 0.075


def test_inner_margins_do_not_know_their_own_labels() -> None:
    # labels are coin flips that nothing predicts: half right within four standard errors, though the fit itself is nearly always right
    pairs = planted(400, Key(5), right=0.5)
    fit = fit_linear(pairs, ["words", "style"], Key(0), strengths=(0.01,), inner_folds=5)
    assert abs(hits(fit.inner).mean() - 0.5) < 4 * 0.5 / math.sqrt(200)
    reward, prompts = LearnedReward(fit.model), [p.prompt.text for p in pairs]
    own = reward.raw(prompts, [p.chosen for p in pairs]) - reward.raw(prompts, [p.rejected for p in pairs])
    assert hits(own.numpy()).mean() > 0.7


def test_a_repeated_opening_turn_teaches_nothing_about_itself() -> None:
    # every opening turn has its own word, which wins in both of its pairs: no other turn knows it, so an honest fold is at chance
    pairs = [pair(i, f"only{i // 2}", "other", prompt=f"Ask {i // 2}") for i in range(40)]
    flipped = [p if (i // 2) % 2 else swapped(p) for i, p in enumerate(pairs)]
    fit = fit_linear(flipped, ["words"], Key(0), strengths=(0.01,), inner_folds=5)
    # with rows dealt one by one the twin of each pair would give its label away: accuracy 1
    assert hits(fit.inner).mean() <= 0.6
    for rows in folds(groups_of(flipped), 5, Key(0)):
        assert not {flipped[i].prompt.text for i in rows} & {flipped[i].prompt.text for i in range(40) if i not in set(rows.tolist())}


def test_a_stack_scores_saves_and_loads(tmp_path: Path) -> None:
    pairs = planted(120, Key(6))
    fits = {
        "w": fit_linear(pairs, ["words"], Key(0), strengths=(1.0,), inner_folds=3),
        "s": fit_linear(pairs, ["style"], Key(0), strengths=(1.0,), inner_folds=3),
    }
    stack = fit_stack(fits)
    weight = fitted_weights(np.stack([fits["w"].inner, fits["s"].inner]))
    np.testing.assert_allclose(stack.inner, weight[0] * fits["w"].inner + weight[1] * fits["s"].inner)
    prompts, replies = ["q", "q"], [Reply(text="fine w1"), Reply(text="dull w2 w3")]
    raw = {name: LearnedReward(f.model).raw(prompts, replies).numpy() for name, f in fits.items()}
    expected = weight[0] * raw["w"] + weight[1] * raw["s"]
    np.testing.assert_allclose(LearnedReward(stack.model).raw(prompts, replies), expected, rtol=1e-4)
    stack.model.save(tmp_path / "stack")
    again = load_reward(tmp_path / "stack")
    assert isinstance(again, StackedReward)
    np.testing.assert_allclose(LearnedReward(again).raw(prompts, replies), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="cannot be a stack"):
        fit_stack({"w": fits["w"], "again": stack})


def test_broken_folders_are_named(tmp_path: Path) -> None:
    fit = fit_linear(planted(40, Key(7)), ["words", "style"], Key(0), strengths=(1.0,), inner_folds=2)
    fit.model.save(tmp_path)
    assert load_text_reward(tmp_path).head_weight().shape == fit.model.head_weight().shape
    words = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps(words[:-1]))
    with pytest.raises(UserError, match=r"vocabulary\.json has"):
        load_text_reward(tmp_path)
    (tmp_path / "reward.json").write_text('{"kind": "oracle"}')
    with pytest.raises(UserError, match="kind 'oracle'"):
        load_reward(tmp_path)
    (tmp_path / "reward.json").write_text('{"kind": "stacked", "members": ["../elsewhere"]}')
    with pytest.raises(UserError, match="no whole stacked"):
        load_reward(tmp_path)


def test_what_held_out_margins_say() -> None:
    groups = ["a", "a", "b", "c"]
    first, second = np.array([1.0, 2.0, -1.0, 0.0]), np.array([1.0, -1.0, -1.0, 1.0])
    # hits 1, 1, 0, 1/2 against 1, 0, 0, 1: mean difference (0 + 1 + 0 - 1/2) / 4
    assert difference(first, second, groups, Key(0)).value == pytest.approx(0.125)
    # chosen is longer, shorter, longer, equal: half of 1 + 0 + 1 + 1/2; the model prefers the longer, the shorter, the shorter, and is torn
    found = preference_for_length(first, np.array([3.0, -1.0, 2.0, 0.0]), groups, Key(0))
    assert found["longer_wins"]["value"] == pytest.approx(2.5 / 4)
    assert found["prefers_longer"]["value"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)


def test_share_of_the_ceiling() -> None:
    # agreement 0.625: E d^2 = 1/4, ceiling from 0.625 to (1 + 1/2) / 2 = 0.75; accuracy 0.6: 0.1 / 0.25 and 0.1 / 0.125
    reached = Estimate(name="accuracy", value=0.6, low=0.55, high=0.65, n=100)
    found = share_of_ceiling(reached, 0.625)
    assert found["ceiling"] == pytest.approx([0.625, 0.75])
    assert [found["attained_low"][k] for k in ("value", "low", "high")] == pytest.approx([0.4, 0.2, 0.6])
    assert [found["attained_high"][k] for k in ("value", "low", "high")] == pytest.approx([0.8, 0.4, 1.2])


def test_a_fit_of_nothing_has_no_temperature() -> None:
    # the replies are alike in everything the block sees: all margins 0
    fit = fit_linear([pair(i, "ab", "cd") for i in range(8)], ["length"], Key(0), strengths=(1.0,), inner_folds=2)
    assert isinstance(fit, LinearFit)
    assert fit.calibration is None
    assert not fit.inner.any()
