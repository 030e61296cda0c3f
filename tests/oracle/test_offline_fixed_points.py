"""Optimizers that learn from given replies reach the fixed point of their own objective, on a world whose replies are all listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, root
from scipy.special import expit, logit, softmax
from scipy.stats import rankdata

from oracle.enumerated import PROMPTS, World, kl_to, make_world, share_of_optimum, trained
from trueup.core.rng import Key
from trueup.data.rows import Judged, Prompt
from trueup.data.tokens import encode_replies
from trueup.learn.table import Examples
from trueup.optimizers.a_lol import ALoLConfig
from trueup.optimizers.dpo import DPOConfig
from trueup.optimizers.ilql import ILQLConfig
from trueup.optimizers.inclusive import InclusiveConfig
from trueup.optimizers.ipo import IPOConfig
from trueup.optimizers.kto import KTOConfig

Floats = NDArray[np.float64]
WORLD = make_world()
SIZE = len(WORLD.space.replies)
FOUR = tuple(int(i) for i in np.linspace(1, SIZE - 2, 4))
"""Four replies whose population can be listed."""
TOKENS = WORLD.space.mask.sum(1)


def pair(prompt: int, chosen: int, rejected: int) -> Judged:
    """A pair of replies by their number."""
    replies = WORLD.space.replies
    return Judged(
        id=f"{chosen}-{rejected}", prompt=Prompt(id=str(prompt), text=PROMPTS[prompt]), replies=(replies[chosen], replies[rejected]),
        ratings=(1.0, 0.0),
    )  # fmt: skip


def always(rows: Sequence[Judged]) -> Callable[[int], Examples[Judged]]:
    """The same batch at every step: a whole population."""
    return lambda step: Examples(row=torch.arange(len(rows)), example=tuple(rows))


def population(counts: dict[tuple[int, int], int]) -> Callable[[int], Examples[Judged]]:
    """So many pairs of each (chosen, rejected), to both prompts in turn."""
    return always([pair(p, *both) for both, n in counts.items() for _ in range(n) for p in range(len(PROMPTS))])


def everything() -> list[Judged]:
    """Every reply to each prompt once, the first one twice."""
    assert SIZE % 2 == 1
    return [pair(p, i, (i + 1) % SIZE) for i in range(0, SIZE, 2) for p in range(len(PROMPTS))]


OFTEN = np.where(np.arange(SIZE) == 0, 2.0, 1.0) / (SIZE + 1)
"""[R] share of each reply in `everything`."""


def labelled(step: int) -> Examples[Judged]:
    """Each reply against three others; over the steps each pair is labelled as Bradley and Terry say of the rewards.

    Labels follow one another by the golden ratio, so that their shares near the chances as 1 / steps.
    """
    pairs = [(p, i, (i + gap) % SIZE) for p in range(len(PROMPTS)) for i in range(SIZE) for gap in (1, 5, 12)]
    place = (Key(11).generator().random(len(pairs)) + step * (5**0.5 - 1) / 2) % 1
    rows = [
        pair(p, *((a, b) if x < expit(WORLD.reward[p, a] - WORLD.reward[p, b]) else (b, a)))
        for (p, a, b), x in zip(pairs, place, strict=True)
    ]
    return Examples(row=torch.arange(len(rows)), example=tuple(rows))


def margins(logp: Floats, a: int, b: int) -> Floats:
    """[P] log-ratio to the reference of a less that of b."""
    ratio = logp - WORLD.logp_ref
    return ratio[:, a] - ratio[:, b]


def test_replies_become_the_tokens_they_were() -> None:
    seq, tokenizer = WORLD.sequences, WORLD.reference.tokenizer
    listed = [row[real].tolist() for row, real in zip(seq.replies[:SIZE], seq.mask[:SIZE], strict=True)]
    assert encode_replies(tokenizer, WORLD.space.replies) == listed


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_dpo_finds_the_optimum_that_the_labels_imply(beta: float) -> None:
    # labels by sigma(r1 - r2): the population loss is least where beta h = r1 - r2 for all pairs, which is pi_ref e^(r / beta)
    found = trained(WORLD, DPOConfig(beta=beta), batch_of=labelled, steps=200, learning_rate=3e-3)
    assert share_of_optimum(WORLD, found.logp, beta) >= 0.99


A, B = int(np.flatnonzero(TOKENS == 1)[0]), SIZE - 1
LONGER = int(TOKENS[A] - TOKENS[B])


@pytest.mark.parametrize(
    ("config", "wins", "of", "wanted"),
    [
        # sigma(beta h) = p
        (DPOConfig(beta=0.5), 4, 5, logit(0.8) / 0.5),
        # all agree, and a tenth is taken to be wrong: sigma(beta h) = .9
        (DPOConfig(beta=0.5, label_smoothing=0.1), 1, 1, logit(0.9) / 0.5),
        # three of four prefer A and a fifth of the labels is flipped: .75 * .8 + .25 * .2 = 13/20 are seen; the flips are undone
        (DPOConfig(beta=0.5, label_smoothing=0.2, loss_type="robust"), 13, 20, logit(0.75) / 0.5),
        # sigma(beta h - alpha (tokens of A - tokens of B)) = p
        (DPOConfig(beta=0.5, length_alpha=0.4), 4, 5, (logit(0.8) + 0.4 * LONGER) / 0.5),
        # p (h - a)^2 + (1 - p) (h + a)^2 with a = 1 / (2 tau): h = (2 p - 1) a
        (IPOConfig(beta=0.25), 4, 5, 0.6 / 0.5),
        # all agree: DPO would go on for ever, IPO stops at a
        (IPOConfig(beta=0.25), 1, 1, 1 / 0.5),
    ],
    ids=["dpo", "conservative", "robust", "length", "ipo", "ipo-certain"],
)
def test_margins_of_two_replies(config: Any, wins: int, of: int, wanted: float) -> None:
    counts = {(A, B): wins, (B, A): of - wins}
    found = trained(WORLD, config, batch_of=population(counts), steps=150)
    assert LONGER != 0
    assert margins(found.logp, A, B) == pytest.approx(np.full(2, wanted), abs=1e-2)


def test_kto_settles_where_gains_and_normalisation_balance() -> None:
    # Of reply y, D(y) = chosen and U(y) = rejected mass. With g = 3 D - U (the weights below) and ratio rho = log pi/pi_ref, the loss has
    # the gradient -beta sigma'(beta (rho - z)) g / 2 in log pi(y); on normalised policies it vanishes where that is in proportion to pi(y).
    # All g are above 0, so pi(y) S = sigma'(beta (log pi(y)/pi_ref(y) - z)) g(y), S such that they add up to 1. Replies that the data
    # lack have no gain, and end with nothing. z is the mean log-ratio of mismatched rows.
    beta = 0.5
    counts = {(FOUR[0], FOUR[1]): 3, (FOUR[1], FOUR[0]): 2, (FOUR[2], FOUR[3]): 2, (FOUR[3], FOUR[2]): 3, (FOUR[0], FOUR[3]): 2}
    config = KTOConfig(beta=beta, desirable_weight=3.0, undesirable_weight=1.0)
    found = trained(WORLD, config, batch_of=population(counts), steps=300)
    chosen = np.array([sum(n for (w, _), n in counts.items() if w == y) for y in FOUR])
    rejected = np.array([sum(n for (_, lost), n in counts.items() if lost == y) for y in FOUR])
    gain = 3.0 * chosen - rejected
    assert (gain > 0).all()
    ratio = (found.logp - WORLD.logp_ref)[:, FOUR]
    here = np.exp(found.logp[:, FOUR])
    assert here.sum(1) == pytest.approx(np.ones(2), abs=1e-2)
    # rows alternate between the prompts, so neighbours are the same pair for the other prompt: z is the mean over all pairs and prompts
    share = (chosen + rejected) / (chosen + rejected).sum()
    z = max(float((ratio * share).sum(1).mean()), 0.0)
    assert found.metrics[-1]["kl"] == pytest.approx(z, abs=1e-2)
    for p in range(2):
        assert here[p] == pytest.approx(balanced(WORLD.logp_ref[p, FOUR], gain, beta, z), abs=1e-2)


def balanced(ref: Floats, gain: Floats, beta: float, z: float) -> Floats:
    """[4] chances with pi S = sigma'(beta (log pi - ref - z)) gain that add up to 1; each falls as S grows."""

    def excess(lp: float, y: int, log_s: float) -> float:
        d = beta * (lp - ref[y] - z)
        return float(np.log(expit(d) * expit(-d) * gain[y]) - log_s - lp)

    def policy(log_s: float) -> Floats:
        return np.exp([brentq(excess, -200, 200, args=(y, log_s)) for y in range(len(ref))])

    return policy(brentq(lambda log_s: policy(log_s).sum() - 1, -40, 10))


def advantages() -> Floats:
    """[P, R] of every reply over the reference's mean."""
    mean = (np.exp(WORLD.logp_ref) * WORLD.reward).sum(1, keepdims=True)
    return np.maximum(WORLD.reward - mean, 0.0)


@pytest.mark.parametrize("priority", [False, True])
def test_a_lol_without_ratios_imitates_in_proportion_to_advantage(priority: bool) -> None:
    # replies y with share mu(y): E[A log pi] is greatest at pi = mu A / sum mu A; weighed by advantage once more, at mu A^2 / sum
    config = ALoLConfig(variant="ref_free", priority=priority, num_generations=16, **WORLD.limits)
    found = trained(WORLD, config, batch_of=always(everything()), steps=150)
    wanted = OFTEN * advantages() ** (2 if priority else 1)
    wanted /= wanted.sum(1, keepdims=True)
    assert kl_of(wanted, found.logp) < 0.05 * kl_of(wanted, WORLD.logp_ref)


def test_a_lol_stops_where_clipped_ratios_balance() -> None:
    # The gradient is E[A clip(rho) grad log pi], rho = pi / pi_ref, over replies y with share mu(y). It vanishes where
    # pi S = mu A clip(rho); with a = mu A / pi_ref that is rho S = a clip(rho). Inside the clip it needs a = S exactly, so replies sit
    # outside: rho = 1.9 a / S where a > S, and .1 a / S where a < S, with S = 1.9 sum_{a > S} mu A + .1 sum_{a < S} mu A.
    config = ALoLConfig(variant="plain", priority=False, num_generations=16, **WORLD.limits)
    found = trained(WORLD, config, batch_of=always(everything()), steps=200)
    mass = OFTEN * advantages()
    wanted = np.stack([outside_the_clip(m, m / np.exp(ref)) for m, ref in zip(mass, WORLD.logp_ref, strict=True)])
    assert kl_of(wanted, found.logp) < 0.05 * kl_of(wanted, WORLD.logp_ref)


def outside_the_clip(mass: Floats, a: Floats) -> Floats:
    """[R] mu A times 1.9 or .1, over their sum S, which is also where a goes from one to the other."""

    def at(s: float) -> Floats:
        return mass * np.where(a > s, 1.9, 0.1)

    found = at(brentq(lambda s: at(s).sum() - s, 1e-9, 10))
    return found / found.sum()


def kl_of(chances: Floats, logp: Floats) -> float:
    """KL(chances || logp), nats, mean over prompts; chances may be 0."""
    inside = chances > 0
    return float((chances[inside] * (np.log(chances[inside]) - logp[inside])).sum() / len(chances))


def test_ilql_finds_the_expectile_values_and_follows_them() -> None:
    # Every reply once, but the first twice. From its end on: Q(s, a) = r where the reply ends, else gamma V(s a); V(s) solves
    # tau sum n(a) (Q - V)_+ = (1 - tau) sum n(a) (V - Q)_+ over the replies through s. The policy is pi_ref(a|s) e^(strength Q) normalised.
    config = ILQLConfig(gamma=0.9, expectile=0.8, cql_coef=0.0, strength=1.5, target_share=0.2)
    found = trained(WORLD, config, batch_of=always(everything()), steps=200)
    wanted = np.stack([ilql_policy(p, config) for p in range(2)])
    assert kl_to(found.logp, wanted) < 0.05 * kl_to(WORLD.logp_ref, wanted)
    assert (np.exp(found.logp) * WORLD.reward).sum() > (np.exp(WORLD.logp_ref) * WORLD.reward).sum() + 1


def ilql_policy(prompt: int, config: ILQLConfig) -> Floats:
    """[R] log-probabilities of the tilted policy, worked out backwards."""
    rows = [tuple(t[m].tolist()) for t, m in zip(WORLD.space.tokens, WORLD.space.mask, strict=True)]
    place, ref = {row: i for i, row in enumerate(rows)}, np.exp(WORLD.logp_ref[prompt])

    def through(prefix: tuple[int, ...]) -> list[int]:
        return [i for i, row in enumerate(rows) if row[: len(prefix)] == prefix]

    def q(state: tuple[int, ...], token: int) -> float:
        after = (*state, token)
        return WORLD.reward[prompt, place[after]] if after in place else config.gamma * value(after)

    def tokens(state: tuple[int, ...]) -> list[int]:
        return sorted({rows[i][len(state)] for i in through(state)})

    def value(state: tuple[int, ...]) -> float:
        often = np.array([OFTEN[through((*state, a))].sum() for a in tokens(state)])
        values = np.array([q(state, a) for a in tokens(state)])

        def gap(v: float) -> float:
            return float((often * np.where(values > v, config.expectile, 1 - config.expectile) * (values - v)).sum())

        return float(brentq(gap, -20, 20))

    def step(state: tuple[int, ...]) -> dict[int, float]:
        chances = np.array([ref[through((*state, a))].sum() for a in tokens(state)])
        tilted = np.log(chances) + config.strength * np.array([q(state, a) for a in tokens(state)])
        return dict(zip(tokens(state), tilted - np.logaddexp.reduce(tilted), strict=True))

    known = {row[:n]: step(row[:n]) for row in rows for n in range(len(row))}
    return np.array([sum(known[row[:n]][a] for n, a in enumerate(row)) for row in rows])


def test_values_of_single_tokens_are_pulled_down_as_cql_says() -> None:
    # One token a reply, each token once: Q of token a with share mu(a) and reward r(a) minimises
    # sum mu (r - Q)^2 + alpha (log sum exp Q - sum mu Q), so 2 mu (Q - r) + alpha (softmax Q - mu) = 0. The policy is pi_ref
    # e^(strength Q), normalised.
    world = make_world(max_tokens=1)
    size = len(world.space.replies)
    rows = [
        Judged(id=str(i), prompt=Prompt(id=str(p), text=PROMPTS[p]), replies=(world.space.replies[i], world.space.replies[(i + 1) % size]),
               ratings=(1.0, 0.0))
        for i in range(0, size, 2) for p in range(2)
    ]  # fmt: skip
    config = ILQLConfig(cql_coef=0.5, strength=1.5, target_share=0.2)
    found = trained(world, config, batch_of=always(rows), steps=200)
    often = np.bincount([j % size for i in range(0, size, 2) for j in (i, i + 1)]) / len(rows)
    for p in range(2):
        balance = partial(cql_balance, often=often, reward=world.reward[p], weight=0.5)
        wanted = world.logp_ref[p] + 1.5 * root(balance, world.reward[p]).x
        assert found.logp[p] == pytest.approx(wanted - np.logaddexp.reduce(wanted), abs=1e-2)


def cql_balance(q: Floats, often: Floats, reward: Floats, weight: float) -> Floats:
    """[R] gradient of the loss of one head."""
    return 2 * often * (q - reward) + weight * (softmax(q) - often)


SHARES = np.array([0.4, 0.3, 0.2, 0.1])


def luce_counts() -> dict[tuple[int, int], int]:
    """Choices of a population with these shares: of y and z, in proportion 10 share(y) to 10 share(z)."""
    return {(FOUR[i], FOUR[j]): round(10 * SHARES[i]) for i in range(4) for j in range(4) if i != j}


def test_inclusive_learning_reproduces_the_shares_of_the_population() -> None:
    # chances p_i / (p_i + p_j) determine p up to its sum
    found = trained(WORLD, InclusiveConfig(closeness=0.0), batch_of=population(luce_counts()), steps=200)
    here = np.exp(found.logp[:, FOUR])
    assert here / here.sum(1, keepdims=True) == pytest.approx(np.tile(SHARES, (2, 1)), abs=1e-2)
    # and they keep the order of the shares, without the winner taking all
    assert all(rankdata(row).tolist() == [4, 3, 2, 1] for row in here)


def test_closeness_pulls_towards_the_base_model() -> None:
    # the population loss with the prior, least in the four log-probabilities (which need not add up to 1: other replies take the rest)
    counts, weight = luce_counts(), 0.3
    found = trained(WORLD, InclusiveConfig(closeness=weight), batch_of=population(counts), steps=300)
    for p in range(2):
        ref = WORLD.logp_ref[p, FOUR]

        def loss(logp: Floats, ref: Floats = ref) -> float:
            total = 0.0
            for both, n in counts.items():
                won, lost = (FOUR.index(y) for y in both)
                away = (logp - ref)[[won, lost]]
                total += n * (np.logaddexp(0, logp[lost] - logp[won]) + weight / 2 * (away**2).sum())
            return total

        wanted = minimize(loss, ref, tol=1e-10).x
        assert np.exp(wanted).sum() < 1
        assert found.logp[p, FOUR] == pytest.approx(wanted, abs=1e-2)


def test_the_world_is_what_these_tests_think() -> None:
    assert isinstance(WORLD, World)
    assert np.exp(WORLD.logp_ref).sum(1) == pytest.approx(np.ones(2), abs=1e-4)
