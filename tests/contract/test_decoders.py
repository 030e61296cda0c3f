"""What every way of decoding keeps: order of rows, batching, seeds, ends, lengths, counts; on tables and on a real model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from oracle.decoding_world import EOS, Table, TableTree, asked_of, parts_of, prompt_ids, replies_of
from tests_support import tiny_policy, tiny_reward
from trueup.core.component import offered
from trueup.core.errors import UserError
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
from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts
from trueup.decoding.rollout import Rollout
from trueup.decoding.tree import policy_tree, reward_tree, value_tree
from trueup.models.value import value_from_policy
from trueup.rewards.learned import LearnedReward

DECODERS: dict[str, DecodingConfig] = {
    "sample": SampleConfig(temperature=0.8, top_p=0.95),
    "greedy": GreedyConfig(),
    "best_of_n": BestOfNConfig(n=3),
    "rad": RadConfig(beta=2.0, top_k=3),
    "args": ArgsConfig(temperature=0.7, top_k=3),
    "controlled": ControlledConfig(strength=1.5),
    "blockwise": BlockwiseConfig(blocks=2, block_tokens=2),
    "mcts": MctsConfig(simulations=6, top_k=4, beta=0.1),
    "tree_search_bfs": TreeSearchBfsConfig(width=2, beam=2, segment_tokens=2),
    "tree_search_mcts": TreeSearchMctsConfig(simulations=4, width=2, segment_tokens=2),
}
PROMPTS = ("a b", "c", "b b a", "c a")


@pytest.fixture(params=DECODERS)
def config(request: pytest.FixtureRequest) -> DecodingConfig:
    return DECODERS[str(request.param)]


def test_every_method_is_here() -> None:
    assert set(offered("trueup.decoding.methods", DecodingConfig)) == set(DECODERS)  # type: ignore[type-abstract]


def columns(found: Decoded) -> list[list[float]]:
    """All numbers of each row; NaN as a word, since it equals nothing."""
    wanted = (found.logp, found.logp_base, found.kl, found.kl_bound, found.policy_tokens, found.reward_tokens)
    return [[round(v, 9) if np.isfinite(v) else "unknown" for v in row] for row in zip(*(c.tolist() for c in wanted), strict=True)]  # type: ignore[misc]


def test_rows_do_not_depend_on_their_batch(config: DecodingConfig) -> None:
    parts = parts_of(Table(Key(1)))
    asked = asked_of(*PROMPTS, key=Key(9), num_samples=3)
    whole = config.decode(parts, asked)
    texts, numbers = [], []
    for start, stop in ((0, 1), (1, 4)):
        some = replace(asked, prompts=asked.prompts[start:stop], ids=asked.ids[start:stop], first_row=3 * start)
        found = config.decode(parts, some)
        texts, numbers = texts + replies_of(found), numbers + columns(found)
    assert texts == replies_of(whole)
    assert numbers == columns(whole)


def test_rows_are_prompts_each_repeated(config: DecodingConfig) -> None:
    asked = asked_of(*PROMPTS, num_samples=2)
    found = config.decode(parts_of(Table(Key(1))), asked)
    seq = found.sequences
    ids = [
        tuple(row[valid].tolist())
        for row, valid in zip(seq.tokens, torch.cat([seq.prompt_mask, torch.zeros_like(seq.mask)], 1), strict=True)
    ]
    assert ids == [prompt_ids(p) for p in asked.repeated()]


def test_the_key_decides(config: DecodingConfig) -> None:
    parts, asked = parts_of(Table(Key(1))), asked_of(*PROMPTS, key=Key(5), num_samples=8)
    first = replies_of(config.decode(parts, asked))
    assert replies_of(config.decode(parts, asked)) == first
    others = [replies_of(config.decode(parts, replace(asked, key=Key(seed)))) for seed in (6, 7)]
    certain = isinstance(config, GreedyConfig)
    assert all((o == first) == certain for o in others)


def test_replies_end_once_and_are_not_too_long(config: DecodingConfig) -> None:
    world = Table(Key(2), steps=4)
    found = config.decode(parts_of(world), asked_of(*PROMPTS, num_samples=12))
    ended = []
    for reply in replies_of(found):
        assert reply in world.replies  # tokens of the policy's support; an end is the last token, or there are as many as allowed
        ended.append(reply[-1] == EOS)
    assert any(ended) and not all(ended) if not isinstance(config, GreedyConfig) else True
    mask = found.sequences.mask
    assert (mask.long().diff(dim=1) <= 0).all()  # replies are flush left
    assert mask.any(0).all()  # and as narrow as they can be
    assert (found.sequences.replies[~mask] == 0).all()


def test_probabilities_are_those_of_the_policy(config: DecodingConfig) -> None:
    world, asked = Table(Key(3)), asked_of(*PROMPTS, num_samples=6)
    found = config.decode(parts_of(world), asked)
    for prompt, reply, base, own, kl in zip(
        asked.repeated(), replies_of(found), found.logp_base.tolist(), found.logp.tolist(), found.kl.tolist(), strict=True
    ):
        assert base == pytest.approx(world.logp(prompt_ids(prompt), reply), abs=1e-6)
        assert np.isnan(own) == np.isnan(kl)
        assert not own > 1e-9
        assert not kl < -1e-9


def test_the_count_is_what_the_models_read(config: DecodingConfig) -> None:
    # one row, so that nothing is read for rows that have nothing to read; the policy's last distribution is never asked for
    world, made = Table(Key(4)), {"policy": [], "prefix": [], "value": []}

    def counted(name: str, outputs: Any) -> Any:
        def make() -> TableTree:
            made[name].append(TableTree(outputs))  # type: ignore[attr-defined]
            return made[name][-1]

        return make

    parts = parts_of(
        world, policy=counted("policy", world.logits), prefix=counted("prefix", world.soft(0.0)), value=counted("value", world.soft(0.0))
    )
    found = config.decode(parts, asked_of("a b"))
    length = int(found.sequences.mask.sum())
    reads = {name: sum(tree.reads for tree in trees) for name, trees in made.items()}
    guided = {"rad", "args", "controlled"}
    if config.kind in ("sample", "greedy", *guided):
        # every next-token distribution but the last comes from a token read, the first from the prompt
        assert found.policy_tokens.item() == reads["policy"] + 1 == length
        assert found.reward_tokens.item() == reads["prefix"]
    elif config.kind == "best_of_n":
        assert found.policy_tokens.item() == found.reward_tokens.item()
        assert length <= found.policy_tokens.item() <= 3 * world.steps
    else:
        assert 0 < found.policy_tokens.item() <= (reads["policy"] + 1) * (2 if config.kind == "mcts" else 1)
        assert found.reward_tokens.item() > 0


@pytest.mark.parametrize("name", [n for n, c in DECODERS.items() if c.needs])
def test_a_missing_model_is_named(name: str) -> None:
    (need,) = DECODERS[name].needs
    with pytest.raises(UserError, match="Give one") as error:
        DECODERS[name].decode(parts_of(Table(Key(1)), **{need: None}), asked_of("a"))
    assert name in str(error.value)


def real_parts() -> DecodingParts:
    """A Llama with a reward model and a critic on its words."""
    policy, reward = tiny_policy(spread=1.5), tiny_reward()
    value = value_from_policy(policy)
    torch.nn.init.normal_(value.head.weight, generator=torch.Generator().manual_seed(2))
    return DecodingParts(
        tokenizer=policy.tokenizer,
        policy=lambda: policy_tree(policy),
        max_tokens=6,
        temperature=0.9,
        rollout=Rollout(policy),
        reward=LearnedReward(reward, policy_tokenizer=policy.tokenizer),
        prefix=lambda: reward_tree(reward),
        value=lambda: value_tree(value, 0),
        reference=lambda: policy_tree(policy),
        context=policy.max_tokens,
    )


def test_a_real_model_keeps_it_too(config: DecodingConfig) -> None:
    parts = real_parts()
    ids = ((3, 4), (5,), (6, 7, 3))
    asked = Asked(prompts=("good bad", "dull", "ask tell good"), ids=ids, key=Key(1), num_samples=4)
    whole = config.decode(parts, asked)
    texts: list[Any] = []
    bases: list[float] = []
    for i in range(3):
        found = config.decode(parts, replace(asked, prompts=asked.prompts[i : i + 1], ids=ids[i : i + 1], first_row=4 * i))
        texts += replies_of(found)
        bases += found.logp_base.tolist()
    assert texts == replies_of(whole)
    assert bases == pytest.approx(whole.logp_base.tolist(), abs=1e-4)
    logits = tiny_policy(spread=1.5).logits(whole.sequences)
    taken = (logits / 0.9).log_softmax(-1).gather(2, whole.sequences.replies[..., None]).squeeze(2)
    wanted = torch.where(whole.sequences.mask, taken, 0.0).sum(1)
    assert whole.logp_base.tolist() == pytest.approx(wanted.tolist(), abs=1e-3)


def test_a_prompt_without_room_is_refused(config: DecodingConfig) -> None:
    parts = replace(real_parts(), context=8)
    with pytest.raises(UserError, match="context of 8"):
        config.decode(parts, Asked(prompts=("good good good",), ids=((3, 3, 3),), key=Key(1)))
