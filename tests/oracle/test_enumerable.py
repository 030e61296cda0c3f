"""The enumerable world: closed forms against numbers worked out by hand, and against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.sandbox.enumerable import Enumerable, EnumerableConfig
from trueup.sandbox.exact import enumerate_replies, expectation, kl, markov_logprobs, objective, optimum, tilted, tilted_path

# The golden policy: pi0 = (.5, .3, .2), r = (0, 1, 2).
LOGP = np.log([[0.5, 0.3, 0.2]])
REWARD = np.array([[0.0, 1.0, 2.0]])
BETAS = tuple(np.geomspace(10, 0.05, 25))


def small(**settings: float) -> Enumerable:
    sizes = {
        "words": 2,
        "max_tokens": 4,
        "topics": 4,
        "train_prompts": 6,
        "validation_prompts": 2,
        "test_prompts": 4,
        "demonstrations": 4000,
    }
    return EnumerableConfig.model_validate({**sizes, **settings}).build(3, Path())


def random_policies(shape: tuple[int, int], name: str) -> NDArray[np.float64]:
    logits = (Key(0) / name).generator().normal(size=shape)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def test_replies_are_all_there_once() -> None:
    # V = 2, T = 3: finished with 0, 1, 2 words 1 + 2 + 4 = 7, unfinished with 3 words 8.
    space = enumerate_replies(["a", "b"], 3)
    assert len(space.replies) == len(set(space.replies)) == 15
    assert sum(r.finished for r in space.replies) == 7
    assert Reply(text="", finished=True) in space.replies
    assert {len(r.text.split()) for r in space.replies if not r.finished} == {3}
    place = space.index()[Reply(text="b a", finished=True)]
    assert space.tokens[place].tolist() == [1, 0, 2]  # the end is token V = 2
    assert space.mask[place].all()
    one = space.index()[Reply(text="b", finished=True)]
    assert space.mask[one].tolist() == [True, True, False]


def test_too_many_replies_are_refused() -> None:
    # 10 words, 4 tokens: 1 + 10 + 100 + 1,000 + 10,000 = 11,111.
    with pytest.raises(UserError, match="11111 replies"):
        enumerate_replies([str(i) for i in range(10)], 4)


def test_markov_logprobs_by_hand() -> None:
    # One word, two tokens. After the start P(end) = 1/4; after the word P(end) = 1/2.
    # "" 1/4; "a" 3/4 * 1/2; "a a" unfinished 3/4 * 1/2.
    space = enumerate_replies(["a"], 2)
    logits = np.log(np.array([[[0.5, 0.5], [0.75, 0.25]]]))
    p = np.exp(markov_logprobs(space, logits))[0]
    found = dict(zip(space.replies, p, strict=True))
    assert found[Reply(text="")] == pytest.approx(0.25)
    assert found[Reply(text="a")] == pytest.approx(0.375)
    assert found[Reply(text="a a", finished=False)] == pytest.approx(0.375)


def test_markov_policies_are_distributions() -> None:
    space = enumerate_replies(["a", "b", "c"], 5)
    logits = Key(1).generator().normal(size=(4, 4, 4)) * 3
    assert np.exp(markov_logprobs(space, logits)).sum(axis=-1) == pytest.approx(np.ones(4), abs=1e-12)


@pytest.mark.parametrize(
    ("beta", "value"),
    # beta log(.5 + .3 e^(1/beta) + .2 e^(2/beta)): .5 log(.5 + .3 e^2 + .2 e^4) = 1.3063694, and so on.
    [(0.5, 1.3063694), (1.0, 1.0272222), (10.0, 0.7309415)],
)
def test_optimum_golden_numbers(beta: float, value: float) -> None:
    assert optimum(LOGP, REWARD, beta)[0] == pytest.approx(value, abs=1e-7)
    assert objective(tilted(LOGP, REWARD, beta), LOGP, REWARD, beta)[0] == pytest.approx(value, abs=1e-7)


def test_kl_by_hand() -> None:
    # .5 log(.5 / .9) + .5 log(.5 / .1) = .5 log(25 / 9) = log(5 / 3)
    assert kl(np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]]))[0] == pytest.approx(np.log(5 / 3))
    assert expectation(LOGP, REWARD)[0] == pytest.approx(0.7)  # .3 * 1 + .2 * 2


def test_regret_identity() -> None:
    # J(pi*) - J(pi) = beta KL(pi || pi*) for every pi, hence no policy beats pi*.
    world = small()
    prompts = world.prompts("train")
    ref, gold = world.reference(prompts), world.gold_table(prompts)
    for beta in (0.2, 1.0, 5.0):
        star, best = tilted(ref, gold, beta), optimum(ref, gold, beta)
        for name in ("a", "b", "c"):
            policy = random_policies(ref.shape, name)
            regret = best - objective(policy, ref, gold, beta)
            assert regret == pytest.approx(beta * kl(policy, star), rel=1e-9)
            assert (regret > 0).all()


def test_gold_moves_by_its_covariance_with_the_proxy() -> None:
    # d E[gold] / d(1/beta) = Cov(gold, proxy) under the tilted policy; central difference with h = 1e-4 is exact to O(h^2).
    world = small()
    prompts, h, inverse = world.prompts("test"), 1e-4, 1.3
    ref, gold, proxy = world.reference(prompts), world.gold_table(prompts), world.proxy_table(prompts)
    up, down = (expectation(tilted(ref, proxy, 1 / (inverse + s * h)), gold) for s in (1, -1))
    here = tilted(ref, proxy, 1 / inverse)
    covariance = expectation(here, gold * proxy) - expectation(here, gold) * expectation(here, proxy)
    assert (up - down) / (2 * h) == pytest.approx(covariance, abs=1e-6)


def test_planted_exploit_turns_gold_and_an_honest_proxy_does_not() -> None:
    for seed in range(8):
        planted = EnumerableConfig().build(seed, Path())
        honest = EnumerableConfig(noise=0, length_bonus=0, odd_bonus=0).build(seed, Path())
        prompts = planted.prompts("test")
        ref = planted.reference(prompts)
        bad = tilted_path(ref, planted.proxy_table(prompts), planted.gold_table(prompts), BETAS)
        good = tilted_path(ref, honest.proxy_table(prompts), honest.gold_table(prompts), BETAS)
        for path in (bad, good):
            assert path.kl_nats[0] == 0
            assert (np.diff(path.kl_nats) > 0).all()
            assert (np.diff(path.proxy) > 0).all()
        assert bad.drop() > 0.2
        assert 0 < int(bad.gold.argmax()) < len(bad.gold) - 1, "gold rises first, then falls"
        assert good.drop() == 0
        assert (np.diff(good.gold) > 0).all()


def test_each_exploit_alone_does_harm() -> None:
    for settings in ({"length_bonus": 0.0}, {"odd_bonus": 0.0, "length_bonus": 1.5, "length_cost": 0.6}):
        world = EnumerableConfig.model_validate({"noise": 0, **settings}).build(0, Path())
        prompts = world.prompts("test")
        path = tilted_path(world.reference(prompts), world.proxy_table(prompts), world.gold_table(prompts), BETAS)
        assert path.gold[-1] < path.gold.max() - 0.2, settings
        assert path.proxy[-1] == path.proxy.max()


def test_tables_and_single_rows_agree() -> None:
    world = small()
    prompts = world.prompts("validation")
    gold, proxy = world.gold_table(prompts), world.proxy_table(prompts)
    for place in (0, 5, len(world.space.replies) - 1):
        reply = world.space.replies[place]
        for row, prompt in enumerate(prompts):
            assert world.gold([prompt], [reply])[0].score == pytest.approx(gold[row, place])
            assert world.proxy(prompt, reply) == pytest.approx(proxy[row, place])


def test_gold_by_hand() -> None:
    # "w0 w0 odd", unfinished: the value of w0 once; .2 * 3 words; .5 * 1 odd word; .5 for no end. The proxy adds .3 * 3 + 1.5.
    world = small(noise=0.0)
    prompt = world.prompts("train")[0]
    value = float(world.values([prompt])[0, 0])
    reply = Reply(text="w0 w0 odd", finished=False)
    found = world.gold([prompt], [reply])[0]
    assert found.score == pytest.approx(value - 0.6 - 0.5 - 0.5)
    assert found.components == pytest.approx({"value": value, "length": -0.6, "odd": -0.5, "unfinished": -0.5})
    assert world.proxy(prompt, reply) == pytest.approx(found.score + 0.9 + 1.5)
    out_of_space = Reply(text="t1 ??? w0 w0 w0 w0 w0 w0")
    assert world.gold([prompt], [out_of_space])[0].score == pytest.approx(value - 0.2 * 8)


def test_demonstrations_come_from_the_reference() -> None:
    # 4,000 draws: the mean of gold lies within 4 standard errors of the exact expectation.
    world = small()
    shown = world.demonstrations()
    prompts = world.prompts("train")
    gold = np.array([g.score for g in world.gold([d.prompt for d in shown], [d.reply for d in shown])])
    exact = expectation(world.reference(prompts), world.gold_table(prompts)).mean()
    assert abs(gold.mean() - exact) < 4 * gold.std() / np.sqrt(len(gold))


def test_labels_follow_the_proxy() -> None:
    # 2,000 comparisons: the share of wins lies within 4 standard errors of sigma(difference / temperature).
    world = small(temperature=1.0)
    prompt, a, b = world.prompts("train")[0], Reply(text="w0"), Reply(text="w1 w1")
    p = 1 / (1 + np.exp(-(world.proxy(prompt, a) - world.proxy(prompt, b))))
    wins = np.mean([world.label(prompt, a, b, Key(5) / i)[1] for i in range(2000)])
    assert abs(wins - p) < 4 * np.sqrt(p * (1 - p) / 2000)


def test_it_is_a_world() -> None:
    world = small()
    texts = [p.text for split in ("train", "validation", "test") for p in world.prompts(split)]  # type: ignore[arg-type]
    assert len(texts) == len(set(texts)) == 12
    known = set(world.vocabulary())
    pairs = [*world.preferences("train"), *world.preferences("validation")]
    assert len(pairs) == 600
    assert not world.preferences("test")
    assert all(p.chosen != p.rejected for p in pairs)
    assert all(word in known for p in pairs for t in (p.prompt.text, p.chosen.text, p.rejected.text) for word in str(t).split())
    again = small()
    assert again.preferences("train") == world.preferences("train")
    shown = world.evaluations([world.prompts("test")[0]] * 2, [Reply(text="w0 odd"), Reply(text="", finished=False)])
    assert shown == {"words": [2.0, 0.0], "odd_words": [1.0, 0.0], "finished": [1.0, 0.0]}


def test_what_a_user_can_fix() -> None:
    with pytest.raises(UserError, match="12 prompts are wanted, 3 topics give 6"):
        small(topics=3)
    with pytest.raises(UserError, match="at most 10000"):
        small(words=30)
    with pytest.raises(UserError, match="does not know the prompt"):
        small().gold([Prompt(id="x", text="hello there")], [Reply(text="w0")])
