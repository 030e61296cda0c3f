"""A world small enough to list: two prompts, five words and an end, replies of at most two tokens, 31 of them a prompt.

What an optimizer reaches is computed exactly, as sums over all replies (`trueup.sandbox.exact`); what it learns from is sampled, through
the real loop. A test reads::

    world = make_world()
    found = trained(world, RLOOConfig(num_generations=32, beta=0.5, **world.limits))
    assert share_of_optimum(world, found.logp, 0.5) >= 0.99

The policy is a Llama whose random features tell the 12 prefixes apart, so that it learns a table as fast as a table would.
All arrays are [P, R] = [2, 31], float64; log-probabilities in nats, of whole replies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from trueup.core.rng import Key
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.decoding.rollout import Rollout
from trueup.learn.table import Table as Columns
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.loading import seeded
from trueup.models.policy import Policy, Reference, reference_of
from trueup.models.tiny import EOS, PAD, UNK, tiny_tokenizer
from trueup.ops.masking import sequence_sum
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.protocol import OptimizerConfig, Parts
from trueup.rewards.programmed import ProgrammedReward
from trueup.sandbox.exact import Space, enumerate_replies, expectation, kl, objective, optimum, tilted

Floats = NDArray[np.float64]
WORDS = ("good", "bad", "dull")
PROMPTS = ("good bad", "bad good")  # two words each: attention cannot tell a word from the same word twice
MAX_TOKENS = 2


@dataclass(frozen=True)
class World:
    """Prompts, every reply, what each is worth, and where learning starts."""

    space: Space
    """Every reply; padding and unknown tokens are words like others, since a policy can write them."""
    sequences: Sequences
    """[P * R] every reply to the first prompt, then to the second."""
    reward: Floats
    """[P, R] unit deviation within a prompt."""
    reference: Policy
    """Never trained: `trained` copies it."""
    logp_ref: Floats
    """[P, R]"""
    limits: dict[str, Any]
    """What every online configuration needs here: the longest reply."""

    @property
    def ids(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of the prompts."""
        return tuple(tuple(self.reference.tokenizer(p)["input_ids"]) for p in PROMPTS)

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> list[float]:
        """What replies are worth, for a `ProgrammedReward`."""
        place = self.space.index()
        return [float(self.reward[PROMPTS.index(str(p)), place[r]]) for p, r in zip(prompts, replies, strict=True)]

    def best(self, beta: float) -> Floats:
        """[P, R] log-probability under the optimum of E r - beta KL."""
        return tilted(self.logp_ref, self.reward, beta)


@dataclass(frozen=True)
class Trained:
    """The end of a run."""

    policy: Policy
    logp: Floats
    """[P, R] exact, under the trained policy."""
    metrics: list[dict[str, float]]
    """Of every step."""
    learner: Any


def make_world(seed: int = 0, *, reward: Floats | None = None, max_tokens: int = MAX_TOKENS) -> World:
    """A world with rewards drawn for each reply by itself, so that no policy simpler than a table is optimal.

    Args:
        seed: of rewards and reference.
        reward: [P, R] other rewards, in the order of ``space.replies``.
        max_tokens: longest reply; 3 gives 156 replies.
    """
    policy = flexible_policy(Key(seed) / "policy")
    space = enumerate_replies([PAD, UNK, *WORDS], max_tokens)
    if reward is None:
        drawn = (Key(seed) / "reward").generator().standard_normal((len(PROMPTS), len(space.replies)))
        reward = (drawn - drawn.mean(1, keepdims=True)) / drawn.std(1, keepdims=True)
    sequences = every_sequence(policy, space)
    with torch.no_grad():
        logp_ref = every_logp(policy, sequences).double().numpy()
    return World(space, sequences, reward, policy, logp_ref, {"max_completion_length": max_tokens})


def flexible_policy(key: Key, width: int = 64) -> Policy:
    """A Llama of two layers whose random weights keep the states of different prefixes apart; its own head, near uniform."""
    tokenizer = tiny_tokenizer(WORDS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 4.0},  # few positions, so they must differ much
    )
    with seeded(key):
        model = LlamaForCausalLM(config).eval()
    numbers = (key / "weights").generator()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                size = {"model.embed_tokens.weight": 1.0, "lm_head.weight": 0.7 / width**0.5}.get(name, 2.0 / p.shape[1] ** 0.5)
                p.copy_(torch.from_numpy(numbers.standard_normal(p.shape) * size).float())
    return Policy(model, tokenizer)


def every_logp(policy: Policy | Reference, sequences: Sequences) -> torch.Tensor:
    """[P, R] log-probability of every reply, differentiable."""
    return sequence_sum(policy.logprobs(sequences), sequences.mask).view(len(PROMPTS), -1)


def prompt_batches(world: World, copies: int) -> Callable[[int], PromptBatch]:
    """Batches for an online optimizer: each prompt ``copies`` times."""
    n = len(PROMPTS)
    batch = PromptBatch(row=torch.arange(n * copies), prompt=PROMPTS * copies, ids=world.ids * copies)
    return lambda step: batch


def parts_of(world: World) -> Parts:
    """Everything an optimizer is built from: a fresh copy of the reference, the reference, the programmed reward."""
    policy = Policy(copy.deepcopy(world.reference.model), world.reference.tokenizer)
    return Parts(policy=policy, reference=reference_of(world.reference), reward=ProgrammedReward(world.score), rollout=Rollout(policy))


def trained(
    world: World,
    config: OptimizerConfig,
    *,
    steps: int = 150,
    rows: int = 512,
    batch_of: Callable[[int], Columns] | None = None,
    seed: int = 7,
    **loop: Any,
) -> Trained:
    """Run the real loop with sampled gradients from the reference on.

    Args:
        world: from `make_world`.
        config: the optimizer.
        steps: updates; the learning rate falls to 0 over them.
        rows: replies sampled a step, all prompts together; online optimizers only.
        batch_of: batches of an optimizer that does not sample; a pure function of the step.
        seed: of the samples.
        loop: settings of `LoopConfig`.
    """
    parts = parts_of(world)
    learner = config.build(parts)
    if batch_of is None:
        batch_of = prompt_batches(world, max(rows // len(PROMPTS) // getattr(config, "num_generations", 1), 1))
    settings = LoopConfig.model_validate({"learning_rate": 3e-3, "lr_scheduler_type": "cosine", "adam_beta2": 0.99, **loop})
    run = train(learner, batch_of, steps=steps, config=settings, key=Key(seed), accelerator=Accelerator(cpu=True))
    metrics = [step.metrics for step in run]
    with torch.no_grad():
        logp = every_logp(parts.policy, world.sequences).double().numpy()
    return Trained(parts.policy, logp, metrics, learner)


def share_of_optimum(world: World, logp: Floats, beta: float) -> float:
    """(J - J_ref) / (J* - J_ref), J averaged over prompts: 0 at the reference, 1 at the optimum."""
    here, home, best = (
        float(x.mean())
        for x in (
            objective(logp, world.logp_ref, world.reward, beta),
            expectation(world.logp_ref, world.reward),
            optimum(world.logp_ref, world.reward, beta),
        )
    )
    return (here - home) / (best - home)


def kl_to(logp: Floats, other: Floats) -> float:
    """KL(logp || other) in nats, averaged over prompts."""
    return float(kl(logp, other).mean())


def every_sequence(policy: Policy, space: Space) -> Sequences:
    """[P * R] All replies to all prompts in the policy's tokens."""
    tokenizer = policy.tokenizer
    token = torch.tensor(tokenizer.convert_tokens_to_ids([*space.words, EOS]))
    replies, mask = token[torch.from_numpy(space.tokens)], torch.from_numpy(space.mask)
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS]
    width = max(map(len, prompts))
    rows = []
    for ids in prompts:
        front = torch.tensor([0] * (width - len(ids)) + ids).expand(len(replies), -1)
        real = torch.tensor([False] * (width - len(ids)) + [True] * len(ids)).expand(len(replies), -1)
        rows.append(Sequences(tokens=torch.cat([front, replies], 1), prompt_mask=real, mask=mask))
    return Sequences.concat(rows)


@dataclass(frozen=True)
class Table:
    """A policy as a table, for following a learning rule without sampling: logits of every word after every prefix."""

    world: World

    @property
    def prefixes(self) -> dict[tuple[int, ...], int]:
        """Number of every prefix after which a word is drawn."""
        found = {
            tuple(row[:t].tolist()) for row, m in zip(self.world.space.tokens, self.world.space.mask, strict=True) for t in range(m.sum())
        }
        return {prefix: i for i, prefix in enumerate(sorted(found))}

    def states(self) -> torch.Tensor:
        """[R, T] number of the prefix before each token; 0 where there is no token."""
        place, space = self.prefixes, self.world.space
        return torch.tensor(
            [
                [place[tuple(row[:t].tolist())] if m[t] else 0 for t in range(len(row))]
                for row, m in zip(space.tokens, space.mask, strict=True)
            ]
        )

    def logp(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every reply, [P, R], and of every word after every prefix, [P, S, V]; from logits [P, S, V], differentiable."""
        words = logits.log_softmax(-1)
        chosen = words[:, self.states(), torch.from_numpy(self.world.space.tokens)]
        return (chosen * torch.from_numpy(self.world.space.mask)).sum(-1), words

    def reference(self) -> torch.Tensor:
        """[P, S, V] log-probability of every word after every prefix under the reference: sums over the replies that begin so."""
        space, place = self.world.space, self.prefixes
        total = torch.full((len(PROMPTS), len(place), len(space.words) + 1), -torch.inf, dtype=torch.float64)
        for r, (row, m) in enumerate(zip(space.tokens, space.mask, strict=True)):
            for t in range(int(m.sum())):
                at = (slice(None), place[tuple(row[:t].tolist())], int(row[t]))
                total[at] = torch.logaddexp(total[at], torch.from_numpy(self.world.logp_ref[:, r]))
        return total.log_softmax(-1)

    def followed(self, rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], steps: int = 3000) -> Floats:
        """[P, R] where a learning rule ends that starts at the reference.

        Args:
            rule: from log-probabilities of replies and of words, a number whose gradient is the direction of learning.
            steps: of Adam, with a learning rate that falls to 0.
        """
        logits = self.reference().clone().requires_grad_(True)
        adam = torch.optim.Adam([logits], lr=0.05)
        for i in range(steps):
            adam.param_groups[0]["lr"] = 0.05 * (1 - i / steps)
            adam.zero_grad()
            (-rule(*self.logp(logits))).backward()
            adam.step()
        return self.logp(logits)[0].detach().numpy()
