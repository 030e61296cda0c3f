"""Sampling the policy and scoring what it wrote: the first half of every online optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trueup.core.rng import Key
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences, decode_replies
from trueup.decoding.sample import Sampled
from trueup.learn.table import Table
from trueup.ops.masking import keep, sequence_sum
from trueup.optimizers.protocol import OnlineConfig, Parts
from trueup.rewards.dense_reward import placed_reward


@dataclass(frozen=True, kw_only=True)
class PromptBatch(Table):
    """Prompts to answer."""

    row: Tensor
    """[B] position in the *global* batch: keys the random streams."""
    prompt: tuple[Conversation, ...]
    ids: tuple[tuple[int, ...], ...]
    """Their tokens."""


@dataclass(frozen=True, kw_only=True)
class Samples(Table):
    """Replies of the present policy, scored; K neighbours share a prompt."""

    sequences: Sequences
    logp: Tensor
    """[B, T] log-probability under the policy in training precision; nats."""
    logp_ref: Tensor
    """[B, T]"""
    logp_sampling: Tensor
    """[B, T] as the sampler had it."""
    score: Tensor
    """[B] reward, before penalties."""
    token_score: Tensor
    """[B, T] the same, where it falls: on the last token unless the reward is dense. Its sum over a row is the score."""
    finished: Tensor
    """[B] bool."""
    prompt: tuple[Conversation, ...]
    reply: tuple[Reply, ...]

    @property
    def mask(self) -> Tensor:
        """[B, T] True on reply tokens."""
        return self.sequences.mask


def sample_and_score(parts: Parts, config: OnlineConfig, batch: PromptBatch, key: Key) -> Samples:
    """Sample ``num_generations`` replies a prompt, and score them with policy, reference and reward. No gradients."""
    k = config.num_generations
    parts.rollout.refresh()
    sampled = parts.rollout.sample(
        [list(ids) for ids in batch.ids],
        num_samples=k,
        max_tokens=config.max_completion_length,
        temperature=config.temperature,
        top_p=config.top_p,
        key=key / "rollout",
        first_row=int(batch.row[0]) * k,
    )
    return scored(parts, config, tuple(p for p in batch.prompt for _ in range(k)), sampled)


def greedy_samples(parts: Parts, config: OnlineConfig, batch: PromptBatch, key: Key) -> Samples:
    """The most probable token at every step, one reply a prompt, scored; the rollout must be fresh. No gradients."""
    sampled = parts.rollout.sample(
        [list(ids) for ids in batch.ids],
        num_samples=1,
        max_tokens=config.max_completion_length,
        temperature=0.0,
        key=key / "greedy",
        first_row=int(batch.row[0]),
    )
    return scored(parts, config, batch.prompt, sampled)


def scored(parts: Parts, config: OnlineConfig, prompts: tuple[Conversation, ...], sampled: Sampled) -> Samples:
    """Replies with what policy, reference and reward say of them.

    Args:
        parts: who is asked.
        config: the temperature of log-probabilities.
        prompts: one a row.
        sampled: the replies.
    """
    seq = sampled.sequences
    replies = tuple(decode_replies(parts.policy.tokenizer, seq.replies, seq.mask))
    token_score = placed_reward(parts.reward, prompts, replies, seq)
    # a float32 sampler has just computed what the policy would say of its own tokens; a nucleus is another distribution
    known = parts.rollout.says_what_policy_says and config.top_p == 1
    return Samples(
        sequences=seq,
        logp=keep(sampled.logp_sampling, seq.mask) if known else parts.policy.logprobs(seq, config.temperature),
        logp_ref=parts.reference.logprobs(seq, config.temperature),
        logp_sampling=sampled.logp_sampling,
        score=token_score.sum(1),
        token_score=token_score,
        finished=torch.tensor([r.finished for r in replies], device=seq.tokens.device),
        prompt=prompts,
        reply=replies,
    )


def penalised_score(samples: Samples, config: OnlineConfig) -> Tensor:
    """[B] Score less the penalty for replies that did not end."""
    return samples.score - config.missing_eos_penalty * (~samples.finished).float()


def importance_weight(samples: Samples, config: OnlineConfig) -> Tensor:
    """[B] Truncated sequence importance weight of the training policy over the sampler; 1 where the setting is off."""
    if config.importance_cap is None:
        return torch.ones_like(samples.score)
    gap = sequence_sum(samples.logp - samples.logp_sampling, samples.mask)
    return gap.exp().clamp(max=config.importance_cap)


def sampling_gap(samples: Samples) -> Tensor:
    """[B] |log pi_training - log pi_sampling| of each reply, nats: what the sampler's precision costs."""
    return sequence_sum(samples.logp - samples.logp_sampling, samples.mask).abs()


def reference_gap(samples: Samples) -> Tensor:
    """[B, T] log pi - log pi_ref per token (k1), 0 where masked."""
    return keep(samples.logp - samples.logp_ref, samples.mask)
