"""Models read along a tree against the same models on each path alone, without cache, padding or batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from oracle.test_sampler import CONFIGS, PROMPTS, policy_of
from tests_support import tiny_policy, tiny_reward
from trueup.core.rng import Key
from trueup.data.tokens import Ids, pack
from trueup.decoding.methods.sample import SampleConfig
from trueup.decoding.protocol import Asked, DecodingParts
from trueup.decoding.rollout import Rollout
from trueup.decoding.tree import TreeReader, policy_tree, reward_tree, value_tree
from trueup.models.loading import seeded
from trueup.models.policy import Policy
from trueup.models.value import ValueModel, value_from_policy

COPIES = 2
PARENTS = [[-1, -1, -1], [2, 0, -1], [4, 4, 1]]
TOKENS = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]


def paths() -> list[Ids]:
    """Tokens from the prompt's end to each node."""
    found: list[Ids] = []
    for parents, tokens in zip(PARENTS, TOKENS, strict=True):
        found += [[*([] if p < 0 else found[p]), t] for p, t in zip(parents, tokens, strict=True)]
    return found


def grown(tree: TreeReader, prompts: list[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    root = tree.root(prompts, COPIES)
    rows = len(root)
    steps = [tree.grow(torch.tensor([p] * rows), torch.tensor([t] * rows)) for p, t in zip(PARENTS, TOKENS, strict=True)]
    return root, torch.cat(steps, 1)


@torch.no_grad()
def alone(policy: Policy, ids: Ids) -> torch.Tensor:
    logits: torch.Tensor = policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "llama grouped", "gpt2", "qwen2", "mistral"])
def test_every_node_sees_its_prompt_and_its_ancestors(name: str, attention: str) -> None:
    with seeded(Key(3) / name):
        model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    policy = Policy(model, policy_of("llama").tokenizer)
    root, nodes = grown(policy_tree(policy), PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        for row in (COPIES * i, COPIES * i + 1):
            torch.testing.assert_close(root[row], alone(policy, prompt), atol=1e-4, rtol=1e-4)
            for node, path in enumerate(paths()):
                torch.testing.assert_close(nodes[row, node], alone(policy, prompt + path), atol=1e-4, rtol=1e-4)


def test_what_is_kept_goes_on_as_before() -> None:
    policy = tiny_policy(spread=2.0)
    tree = policy_tree(policy)
    prompts: list[Ids] = [[3, 4], [5], [6, 7, 3]]
    root = tree.root(prompts, 1)
    assert root.shape == (3, 8)
    tree.grow(torch.full((3, 3), -1), torch.tensor([[3, 4, 5]] * 3))
    tree.grow(torch.tensor([[1, 2]] * 3), torch.tensor([[6, 7]] * 3))
    # rows 2 and 0; of them the paths 4-6 (nodes 1, 3) and 5-7 (nodes 2, 4)
    tree.keep(torch.tensor([2, 0]), torch.tensor([[1, 3], [2, 4]]))
    found = tree.grow(torch.tensor([[1, 0], [1, -1]]), torch.tensor([[3, 4], [5, 6]]))
    wanted = [[[6, 7, 3, 4, 6, 3], [6, 7, 3, 4, 4]], [[3, 4, 5, 7, 5], [3, 4, 6]]]
    for row, ids in enumerate(wanted):
        for column, path in enumerate(ids):
            torch.testing.assert_close(found[row, column], alone(policy, path), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reads_eos", [True, False])
def test_a_reward_model_reads_prefixes_as_it_reads_replies(reads_eos: bool) -> None:
    model = tiny_reward()
    model.reads_eos = reads_eos
    tree = reward_tree(model, gain=2.0, shift=-1.0)
    prompts: list[Ids] = [[3, 4], [5]]
    tree.root(prompts, 1)
    first = tree.grow(torch.full((2, 3), -1), torch.tensor([[6, 1, 7]] * 2))
    second = tree.grow(torch.tensor([[0, 0]] * 2), torch.tensor([[1, 4]] * 2))
    for row, prompt in enumerate(prompts):
        for found, reply in (
            (first[row, 0], [6]),
            (first[row, 2], [7]),
            (second[row, 1], [6, 4]),
            (first[row, 1], [1]),
            (second[row, 0], [6, 1]),
        ):
            # a model that does not read the end of a reply is read at the token before it
            read = [t for t in reply if t != 1 or reads_eos]
            raw = model.score(pack([prompt], [read], 0))[0] if read else model.score(pack([prompt[:-1]], [prompt[-1:]], 0))[0]
            torch.testing.assert_close(found[0], 2 * raw - 1, atol=1e-5, rtol=1e-5)


def test_kept_rows_of_a_model_that_reads_no_end() -> None:
    model = tiny_reward()
    model.reads_eos = False
    tree = reward_tree(model)
    tree.root([[3, 4], [5]], 1)
    tree.grow(torch.full((2, 2), -1), torch.tensor([[6, 7]] * 2))
    tree.keep(torch.tensor([1]), torch.tensor([[1]]))
    found = tree.grow(torch.tensor([[0]]), torch.tensor([[1]]))
    torch.testing.assert_close(found[0, 0, 0], model.score(pack([[5]], [[7]], 0))[0], atol=1e-5, rtol=1e-5)


def test_a_critic_says_of_a_prefix_what_it_says_of_the_next_token() -> None:
    policy = tiny_policy()
    value = value_from_policy(policy)
    torch.nn.init.normal_(value.head.weight, generator=torch.Generator().manual_seed(1))
    tree = value_tree(value, 0)
    root = tree.root([[3, 4]], 1)
    found = tree.grow(torch.tensor([[-1]]), torch.tensor([[6]]))
    with torch.no_grad():
        wanted = value(pack([[3, 4]], [[6, 7]], 0))[0]
    torch.testing.assert_close(torch.stack([root[0, 0], found[0, 0, 0]]), wanted, atol=1e-5, rtol=1e-5)
    assert isinstance(value, ValueModel)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_plain_sampling_draws_what_the_rollout_draws(name: str) -> None:
    policy = policy_of(name)
    parts = DecodingParts(tokenizer=policy.tokenizer, policy=lambda: policy_tree(policy), max_tokens=12, temperature=0.8)
    asked = Asked(prompts=("",) * len(PROMPTS), ids=tuple(map(tuple, PROMPTS)), key=Key(5), num_samples=6, first_row=30)
    found = SampleConfig(top_p=0.9).decode(parts, asked)
    wanted = Rollout(policy).sample(PROMPTS, num_samples=6, max_tokens=12, temperature=0.8, top_p=0.9, key=Key(5), first_row=30)
    assert torch.equal(found.sequences.mask, wanted.sequences.mask)
    assert torch.equal(found.sequences.replies[found.sequences.mask], wanted.sequences.replies[wanted.sequences.mask])
    base = wanted.logp_sampling.double().sum(1).numpy()
    assert found.logp_base.numpy() == pytest.approx(base, abs=1e-3)
    # the nucleus gives every token it keeps a larger share
    assert (found.logp.numpy() >= base - 1e-3).all()
    assert np.isfinite(found.kl.numpy()).all()


def test_adapters_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from trueup.models.policy import LoraSettings, adapted

    policy = tiny_policy()
    lora = Policy(adapted(policy.model, LoraSettings(rank=2)), policy.tokenizer)
    with torch.no_grad():
        for p in lora.model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    found: Any = policy_tree(lora).root([[3, 4]], 1)
    torch.testing.assert_close(found[0], alone(lora, [3, 4]), atol=1e-5, rtol=1e-5)
