"""Replies of a policy outside its optimisation: for rescaling, for preference pairs, for probes and pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trueup.core.errors import UserError
from trueup.core.record import Decoding
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.data.tokens import Sequences, decode_replies, encode_prompts
from trueup.decoding.rollout import Rollout
from trueup.decoding.sample import Sampled
from trueup.models.policy import Policy, load_policy
from trueup.optimizers.protocol import OfflineConfig, OnlineConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.pipeline.config import RewardStageConfig, RunConfig
from trueup.pipeline.context import Context

PROMPTS_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class Written:
    """Replies of one chunk of prompts, as tokens and as text."""

    prompts: list[Prompt]
    """One a row."""
    replies: list[Reply]
    sampled: Sampled

    @property
    def sequences(self) -> Sequences:
        """The rows as tokens."""
        return self.sampled.sequences


def decoding_of(context: Context) -> Decoding:
    """How the run's policies are sampled: as its optimizer samples them."""
    return decoding_for(context.config)


def decoding_for(config: RunConfig) -> Decoding:
    """`decoding_of` a configuration."""
    stage = config.policy
    if stage is not None and isinstance(stage.optimizer, OfflineConfig):
        return Decoding(temperature=1.0, top_p=1.0, max_tokens=stage.optimizer.max_completion_length)
    online = stage.optimizer if stage is not None and isinstance(stage.optimizer, OnlineConfig) else RLOOConfig()
    return Decoding(temperature=online.temperature, top_p=online.top_p, max_tokens=online.max_completion_length)


def write(policy: Policy, prompts: Sequence[Prompt], decoding: Decoding, key: Key, *, samples: int = 1) -> list[Written]:
    """Sample replies, ``samples`` neighbours a prompt, in chunks that change no stream.

    Raises:
        UserError: a prompt leaves no room for a reply in the policy's context.
    """
    ids = encode_prompts(policy.tokenizer, [p.text for p in prompts])
    for prompt, row in zip(prompts, ids, strict=True):
        if policy.max_tokens is not None and len(row) + decoding.max_tokens > policy.max_tokens:
            raise UserError(
                f"has {len(row)} tokens, and with {decoding.max_tokens} of the reply that is more than the policy's context of "
                f"{policy.max_tokens}. Shorten the prompt or max_completion_length.",
                where=f"prompt '{prompt.id}'",
            )
    rollout = Rollout(policy)
    out = []
    for start in range(0, len(ids), PROMPTS_AT_ONCE):
        sampled = rollout.sample(
            ids[start : start + PROMPTS_AT_ONCE],
            num_samples=samples,
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            key=key,
            first_row=start * samples,
        )
        replies = decode_replies(policy.tokenizer, sampled.sequences.replies, sampled.sequences.mask)
        rows = [p for p in prompts[start : start + PROMPTS_AT_ONCE] for _ in range(samples)]
        out.append(Written(prompts=rows, replies=replies, sampled=sampled))
    return out


def replies_of(written: Sequence[Written]) -> tuple[list[Prompt], list[Reply]]:
    """All rows of all chunks."""
    return [p for w in written for p in w.prompts], [r for w in written for r in w.replies]


def reference_samples(context: Context) -> tuple[list[Prompt], list[Reply]]:
    """The replies of the SFT policy on which every reward model of the run is rescaled: the same at every refit."""
    wanted, key = (context.config.reward or RewardStageConfig()).reference_samples, context.key / "reference"
    prompts = list(context.world.prompts("train"))
    order = (key / "prompts").permutation(len(prompts))
    picked = [prompts[int(order[i % len(prompts)])] for i in range(wanted)]
    return replies_of(write(load_policy(context.run.checkpoint("sft")), picked, decoding_of(context), key))
