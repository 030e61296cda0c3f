"""Decoders against enumeration: what they draw, how probable they say it is, and what it cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oracle.decoding_world import Table, TableTree, Tokens, asked_of, parts_of, prompt_ids, replies_of
from trueup.core.rng import Key
from trueup.decoding.methods.args import ArgsConfig
from trueup.decoding.methods.best_of_n import BestOfNConfig
from trueup.decoding.methods.blockwise import BlockwiseConfig
from trueup.decoding.methods.controlled import ControlledConfig
from trueup.decoding.methods.greedy import GreedyConfig
from trueup.decoding.methods.mcts import MctsConfig
from trueup.decoding.methods.rad import RadConfig
from trueup.decoding.methods.sample import SampleConfig
from trueup.decoding.methods.tree_search_bfs import TreeSearchBfsConfig
from trueup.decoding.methods.tree_search_mcts import TreeSearchMctsConfig
from trueup.stats.best_of_n import exact_kl_nats

PROMPT = "a b"


def distribution(world: Table, prompt: Tokens) -> tuple[np.ndarray, np.ndarray]:
    _, logp, reward = world.under(prompt, ())
    return logp.numpy(), reward.numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_soft_values_draw_the_tilted_distribution(seed: int, strength: float) -> None:
    world = Table(Key(seed))
    parts = parts_of(world, prefix=lambda: TableTree(world.soft(strength)))
    found = ControlledConfig(strength=strength).decode(parts, asked_of(PROMPT, num_samples=2000))
    logp, reward = distribution(world, prompt_ids(PROMPT))
    tilted = logp + strength * reward
    tilted -= np.logaddexp.reduce(tilted)
    index = {r: i for i, r in enumerate(world.replies)}
    drawn = np.array([index[r] for r in replies_of(found)])
    assert len(set(drawn.tolist())) > 15  # of 40 replies, most were seen
    assert found.logp.numpy() == pytest.approx(tilted[drawn], abs=1e-6)
    assert found.logp_base.numpy() == pytest.approx(logp[drawn], abs=1e-6)
    # and they are drawn as often as they say: every share within 4.5 standard errors
    share, p = np.bincount(drawn, minlength=len(tilted)) / len(drawn), np.exp(tilted)
    assert (np.abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / len(drawn)) + 1e-9).all()
    # the KL of each step, over the whole vocabulary, averages to the KL of whole replies: E[log(p* / p)]
    exact = float((p * (tilted - logp)).sum())
    spread = float(found.kl.std()) / np.sqrt(len(drawn))
    assert abs(float(found.kl.mean()) - exact) < 4.5 * spread


def test_mean_values_draw_another_distribution() -> None:
    # mean values at strength 2: the log-probabilities of some replies differ from the tilted ones by more than 0.05
    world = Table(Key(0))
    found = ControlledConfig(strength=2.0).decode(parts_of(world), asked_of(PROMPT, num_samples=500))
    logp, reward = distribution(world, prompt_ids(PROMPT))
    tilted = logp + 2.0 * reward - np.logaddexp.reduce(logp + 2.0 * reward)
    index = {r: i for i, r in enumerate(world.replies)}
    drawn = np.array([index[r] for r in replies_of(found)])
    assert np.abs(found.logp.numpy() - tilted[drawn]).max() > 0.05


@pytest.mark.parametrize("n", [2, 4])
def test_best_of_n_has_the_law_of_the_maximum(n: int) -> None:
    world, rows = Table(Key(1)), 4000
    found = BestOfNConfig(n=n).decode(parts_of(world), asked_of(PROMPT, num_samples=rows))
    logp, reward = distribution(world, prompt_ids(PROMPT))
    # P(reply wins) = F(r)^n - F(r-)^n with F the policy's law of rewards; all rewards differ
    order = np.argsort(reward)
    upto = np.cumsum(np.exp(logp[order]))
    won = np.empty_like(upto)
    won[order] = np.diff(np.concatenate([[0.0], upto**n]))
    index = {r: i for i, r in enumerate(world.replies)}
    share = np.bincount([index[r] for r in replies_of(found)], minlength=len(won)) / rows
    assert (np.abs(share - won) <= 4.5 * np.sqrt(won * (1 - won) / rows) + 1e-9).all()
    # log n - (n - 1) / n: 0.1931472 and 0.6362944; the exact KL lies below, since replies have atoms
    assert found.kl_bound[0].item() == pytest.approx({2: 0.1931472, 4: 0.6362944}[n], abs=1e-6)
    assert exact_kl_nats(np.exp(logp), reward, n) < found.kl_bound[0].item()
    assert torch.isnan(found.logp).all()
    assert torch.isnan(found.kl).all()


@pytest.mark.parametrize("seed", range(20))
def test_mcts_with_an_exact_value_finds_the_best_reply(seed: int) -> None:
    # the value of a prefix is the most it can still reach, and branches never looked at have their node's: a branch falls only once it
    # was seen to be worse, so that of 4 branches the best is found by the 4th simulation and then visited always
    world = Table(Key(seed) / "mcts", steps=3 + seed % 2)
    config = MctsConfig(simulations=12, top_k=4, c_puct=0.0, temperature=0.0, backup="max")
    prompts = ("a b", "c", "b a c")
    found = config.decode(parts_of(world, value=lambda: TableTree(world.best)), asked_of(*prompts))
    for prompt, reply in zip(prompts, replies_of(found), strict=True):
        replies, _, reward = world.under(prompt_ids(prompt), ())
        assert reply == replies[int(reward.argmax())]


@pytest.mark.parametrize("seed", range(6))
def test_mcts_by_means_finds_the_best_of_single_tokens(seed: int) -> None:
    # replies of one token: every branch ends, so its mean is its reward
    world = Table(Key(seed) / "mcts", steps=1)
    found = MctsConfig(simulations=400, top_k=4, c_puct=1.0, temperature=0.0).decode(parts_of(world), asked_of("a b", "c"))
    for prompt, reply in zip(("a b", "c"), replies_of(found), strict=True):
        replies, _, reward = world.under(prompt_ids(prompt), ())
        assert reply == replies[int(reward.argmax())]


def test_mcts_that_mostly_explores_visits_by_the_prior() -> None:
    # c_puct so large that values do not matter: visits of n simulations are within one of n times the prior of each branch, for 4 branches
    world, ids = Table(Key(11), steps=2), prompt_ids(PROMPT)
    n = 400
    found = MctsConfig(simulations=n, top_k=4, c_puct=1e9).decode(parts_of(world), asked_of(PROMPT, num_samples=300))
    prior = world.logits(ids, ()).softmax(0)
    # the first token is drawn in proportion to visits; what the method says of replies of one token is that share
    shares = {np.exp(logp) for reply, logp in zip(replies_of(found), found.logp.tolist(), strict=True) if reply == (1,)}
    assert len(shares) == 1
    assert shares.pop() == pytest.approx(prior[1].item(), abs=1e-2)


def test_blocks_as_long_as_the_reply_are_best_of_k() -> None:
    world, rows = Table(Key(2)), 4000
    found = BlockwiseConfig(blocks=3, block_tokens=3).decode(parts_of(world), asked_of(PROMPT, num_samples=rows))
    logp, reward = distribution(world, prompt_ids(PROMPT))
    order = np.argsort(reward)
    upto = np.cumsum(np.exp(logp[order]))
    won = np.empty_like(upto)
    won[order] = np.diff(np.concatenate([[0.0], upto**3]))
    index = {r: i for i, r in enumerate(world.replies)}
    share = np.bincount([index[r] for r in replies_of(found)], minlength=len(won)) / rows
    assert (np.abs(share - won) <= 4.5 * np.sqrt(won * (1 - won) / rows) + 1e-9).all()
    # one block a reply: log 3 - 2 / 3 = 0.4319456
    assert found.kl_bound.numpy() == pytest.approx(0.4319456, abs=1e-6)


def test_blocks_of_one_token_are_best_of_k_a_token() -> None:
    # P(token wins the first block) = F(v)^2 - F(v-)^2 with F the policy's law of the values after one token
    world, rows = Table(Key(3)), 4000
    found = BlockwiseConfig(blocks=2, block_tokens=1).decode(parts_of(world), asked_of(PROMPT, num_samples=rows))
    ids = prompt_ids(PROMPT)
    p = world.logits(ids, ()).softmax(0).numpy()
    tokens = [1, 3, 4, 5]
    # the reply that ends at once is valued by its reward, the others by their mean reward
    value = {t: world.reward(ids, (1,)) if t == 1 else world.soft(0.0)(ids, (t,)).item() for t in tokens}
    below, won = 0.0, {}
    for t in sorted(tokens, key=lambda t: value[t]):
        won[t] = (below + p[t]) ** 2 - below**2
        below += p[t]
    first = np.array([r[0] for r in replies_of(found)])
    for t in tokens:
        assert abs((first == t).mean() - won[t]) <= 4.5 * np.sqrt(won[t] * (1 - won[t]) / rows)


@pytest.mark.parametrize(
    ("name", "guided", "plain"),
    [
        ("controlled, strength 0", ControlledConfig(strength=0.0), SampleConfig()),
        ("rad, beta 0, all tokens", RadConfig(beta=0.0, top_k=6), SampleConfig()),
        ("args, weight 0", ArgsConfig(weight=0.0), GreedyConfig()),
        ("args, one candidate", ArgsConfig(weight=50.0, top_k=1), GreedyConfig()),
        ("rad, one candidate", RadConfig(top_k=1), GreedyConfig()),
        ("mcts, one branch", MctsConfig(top_k=1, simulations=3), GreedyConfig()),
        ("mcts, one simulation", MctsConfig(simulations=1), GreedyConfig()),
        ("sample, nearly no temperature", SampleConfig(temperature=1e-3), GreedyConfig()),
        ("sample, a nucleus of one token", SampleConfig(top_p=1e-6), GreedyConfig()),
    ],
)
def test_without_guidance_the_policy_remains(name: str, guided: object, plain: object) -> None:
    world = Table(Key(4))
    asked = asked_of(PROMPT, "c", num_samples=40)
    one, other = (config.decode(parts_of(world), asked) for config in (guided, plain))  # type: ignore[attr-defined]
    assert replies_of(one) == replies_of(other)
    assert one.logp.numpy() == pytest.approx(other.logp.numpy(), abs=1e-6)
    if isinstance(plain, SampleConfig):
        assert one.kl.numpy() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "config",
    [
        BestOfNConfig(n=1), BlockwiseConfig(blocks=1, block_tokens=2), TreeSearchBfsConfig(width=1, beam=1, segment_tokens=2),
        TreeSearchMctsConfig(width=1, segment_tokens=2, simulations=2),
    ],
    ids=lambda c: c.kind,
)  # fmt: skip
def test_one_branch_is_the_policy(config: object) -> None:
    world, rows = Table(Key(5)), 3000
    found = config.decode(parts_of(world), asked_of(PROMPT, num_samples=rows))  # type: ignore[attr-defined]
    logp, _ = distribution(world, prompt_ids(PROMPT))
    index, p = {r: i for i, r in enumerate(world.replies)}, np.exp(logp)
    drawn = [index[r] for r in replies_of(found)]
    share = np.bincount(drawn, minlength=len(p)) / rows
    assert (np.abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / rows) + 1e-9).all()
    assert found.logp_base.numpy() == pytest.approx(logp[drawn], abs=1e-6)


@pytest.mark.parametrize("config", [RadConfig(beta=20.0, top_k=6), ArgsConfig(weight=9.0, temperature=1.0), ControlledConfig(strength=3.0)])
def test_a_constant_score_changes_nothing(config: object) -> None:
    world, asked = Table(Key(6)), asked_of(PROMPT, num_samples=50)
    flat = parts_of(world, prefix=lambda: TableTree(lambda prompt, prefix: torch.tensor([0.5], dtype=torch.float64)))
    found = config.decode(flat, asked)  # type: ignore[attr-defined]
    assert replies_of(found) == replies_of(SampleConfig().decode(parts_of(world), asked))
    assert found.kl.numpy() == pytest.approx(0.0, abs=1e-9)


def test_a_heavy_score_takes_the_best_candidate() -> None:
    world, ids = Table(Key(8)), prompt_ids(PROMPT)
    found = RadConfig(beta=1e6, top_k=2, clamp=False).decode(parts_of(world), asked_of(PROMPT, num_samples=5))
    value = world.soft(0.0)
    prefix: Tokens = ()
    while len(prefix) < world.steps and 1 not in prefix:
        two = sorted(range(6), key=lambda t: -world.logits(ids, prefix)[t].item())[:2]
        prefix = (*prefix, max(two, key=lambda t: value(ids, (*prefix, t)).item()))
    assert set(replies_of(found)) == {prefix}
    # the method is certain, so each reply has log-probability 0 and its KL is minus the policy's log-probability
    assert found.logp.numpy() == pytest.approx(0.0, abs=1e-9)
    assert found.kl.numpy() == pytest.approx(-world.logp(ids, prefix), abs=1e-6)


def test_a_wider_search_finds_better_replies() -> None:
    world, asked = Table(Key(9)), asked_of(PROMPT, "c", "b", num_samples=150)

    def mean_reward(config: object) -> float:
        found = config.decode(parts_of(world), asked)  # type: ignore[attr-defined]
        rows = zip(asked.repeated(), replies_of(found), strict=True)
        return float(np.mean([world.reward(prompt_ids(p), r) for p, r in rows]))

    plain = mean_reward(SampleConfig())
    narrow, wide = (mean_reward(TreeSearchBfsConfig(width=w, beam=b, segment_tokens=1)) for w, b in ((2, 1), (4, 3)))
    search = mean_reward(TreeSearchMctsConfig(width=4, segment_tokens=1, simulations=24))
    assert plain + 0.1 < narrow < wide
    assert plain + 0.3 < search
