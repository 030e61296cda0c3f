"""Reward models: a trunk with a scalar head. Text, with a `finished` flag, is what they read; tokens only inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rendering import Rendering
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import (
    Sequences,
    cut_left,
    decode_replies,
    encode_prompts,
    encode_replies,
    fit,
    load_tokenizer,
    pack,
    same_tokenizer,
)
from trueup.learn.as_forward import as_forward
from trueup.learn.table import Table
from trueup.models.embedding_reward import SETTINGS
from trueup.models.encoder_reward import EncoderReward
from trueup.models.heads import fresh_head, last_linear, set_outputs
from trueup.models.llama import last_states, lean_trunk
from trueup.models.loading import load_model_config, load_weights, quiet, seeded, without_dropout
from trueup.models.policy import DTYPES, Policy, Precision, autocast, base_of, context_of, merged
from trueup.models.stacked_reward import load_text_reward


class RewardModel(Protocol):
    """What fits, scores and saves alike, whatever the trunk."""

    @property
    def module(self) -> nn.Module:
        """The part that is trained."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast | None:
        """Of the trunk; None where it reads text only."""
        ...

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Table:
        """Features of prompts with replies, one row each, made without the trained weights."""
        ...

    def score(self, features: Table) -> Tensor:
        """[B] float32 raw scores, differentiable in `module`: the first of the `outputs`."""
        ...

    def outputs(self, features: Table) -> Tensor:
        """[B, H] float32, differentiable in `module`: all that the head says; objectives with more than one head use the others."""
        ...

    def head_weight(self) -> Tensor | None:
        """[H, W] weights of the last layer."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_reward` reads."""
        ...


class TrunkReward:
    """A causal trunk with a linear head, read at the last valid token by our own mask.

    Args:
        model: a ``...ForSequenceClassification`` with one label and a causal trunk (or one with a peft adapter).
        tokenizer: of the trunk.
        rendering: how messages become text, see `render_prompt`.
        precision: of matrix products; weights keep their own, scores are float32.
        reads_eos: False reads the token before eos, as transformers does where padding and eos are one token.

    Attributes:
        cut_replies: cut replies that do not fit the context from the left, instead of stopping; False unless set.
        max_length: longest prompt with reply, tokens (TRL's name); the context's own limit unless set.

    Raises:
        UserError: padding and eos are one token, but ``reads_eos``: transformers' own forward would read before eos.
    """

    cut_replies: bool = False
    max_length: int | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        rendering: Rendering = "template",
        precision: Precision = "float32",
        reads_eos: bool = True,
    ) -> None:
        if reads_eos and tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise UserError("a reward model's padding token must differ from eos. Set `pad_token` to another existing token.")
        self.model: Any = without_dropout(model)
        self._tokenizer, self.rendering, self.precision, self.reads_eos = tokenizer, rendering, precision, reads_eos
        model.config.pad_token_id = tokenizer.pad_token_id

    @property
    def module(self) -> nn.Module:
        """Trunk and head."""
        return self.model

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        head: nn.Linear = base_of(self.model).score
        return head

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the trunk."""
        return self._tokenizer

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Sequences:
        """Tokens of prompts with replies; prompts are cut from the left where the context is too short, replies only if told to."""
        tokenizer = self._tokenizer
        prompt_ids = encode_prompts(tokenizer, prompts, rendering=self.rendering)
        read = replies if self.reads_eos else [replace(r, finished=False) for r in replies]
        reply_ids, limit = encode_replies(tokenizer, read), self._limit()
        if self.cut_replies and limit is not None:
            reply_ids = [cut_left(ids, limit - 1) for ids in reply_ids]
        return pack(fit(tokenizer, prompt_ids, reply_ids, limit), reply_ids, tokenizer.pad_token_id)

    def score(self, features: Table) -> Tensor:
        """[B] float32 score at each row's last valid token."""
        return self.outputs(features)[:, 0]

    def head_weight(self) -> Tensor:
        """[H, W] weights of the head."""
        return self.head.weight

    def outputs(self, features: Table) -> Tensor:
        """[B, H] float32 outputs of the head at each row's last valid token."""
        assert isinstance(features, Sequences)
        return as_forward(self.model, partial(self._outputs, features))

    def _outputs(self, features: Sequences) -> Tensor:
        trunk, head = lean_trunk(self.model), self.head
        if trunk is not None:
            hidden = last_states(trunk, features, DTYPES[self.precision])
        else:
            features = features.trimmed()
            inputs = {"input_ids": features.tokens, "attention_mask": features.attention(), "position_ids": features.positions()}
            with autocast(features.tokens.device, self.precision):
                states = base_of(self.model).base_model(**inputs, use_cache=False).last_hidden_state
            hidden = states[torch.arange(len(features), device=states.device), features.last()]
        return F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float()

    def from_policy_tokens(self, sequences: Sequences, policy_tokenizer: PreTrainedTokenizerFast) -> Sequences | None:
        """The policy's own tokens as features, or None where reading them as text would give other tokens.

        Args:
            sequences: the policy's prompts and replies.
            policy_tokenizer: of the policy.
        """
        limit = self._limit()
        fits = limit is None or int(sequences.attention().sum(1).max()) <= limit
        if not fits or not self.reads_eos or not same_tokenizer(policy_tokenizer, self._tokenizer):
            return None
        again = encode_replies(self._tokenizer, decode_replies(policy_tokenizer, sequences.replies, sequences.mask))
        tokens = [row[valid].tolist() for row, valid in zip(sequences.replies, sequences.mask, strict=True)]
        return sequences if again == tokens else None

    def _limit(self) -> int | None:
        """Longest sequence, tokens."""
        known = [n for n in (context_of(self.model), self.max_length) if n is not None]
        return min(known, default=None)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `AutoModelForSequenceClassification` and `load_reward` load; an adapter is merged into its base first."""
        with quiet():
            merged(self.model).save_pretrained(str(folder))
        self._tokenizer.save_pretrained(str(folder))


def reward_from_policy(policy: Policy, key: Key, rendering: Rendering = "template", outputs: int = 1) -> TrunkReward:
    """A reward model with a copy of the policy's trunk and a fresh head of so many ``outputs`` drawn from ``key``."""
    source = merged(policy.model)
    config = copy.deepcopy(source.config)
    set_outputs(config, outputs)
    config.pad_token_id = policy.tokenizer.pad_token_id
    with seeded(key):
        model = AutoModelForSequenceClassification.from_config(config)
    model = model.to(next(source.parameters()).dtype)
    model.base_model.load_state_dict(source.base_model.state_dict())
    fresh_head(model.score, key / "head")
    return TrunkReward(model, policy.tokenizer, rendering, policy.precision)


def new_reward(
    path: str | Path,
    key: Key,
    *,
    dtype: torch.dtype = torch.float32,
    pad_token: str | None = None,
    rendering: Rendering = "template",
    precision: Precision = "float32",
    outputs: int = 1,
) -> TrunkReward | EncoderReward:
    """A reward model with a pretrained trunk (causal or encoder) and a fresh head drawn from ``key``.

    Args:
        path: folder or hub name of the trunk.
        key: of the head's weights.
        dtype: of the weights.
        pad_token: see `load_tokenizer`.
        rendering: see `render_prompt`.
        precision: see `TrunkReward`.
        outputs: of the head; the first is the score.

    Raises:
        UserError: nothing there, broken weights, or no trunk in them.
    """
    config = load_model_config(path)
    set_outputs(config, outputs)
    with seeded(key):
        # a classifier of other labels may serve as trunk: its head is replaced
        model, missing = load_weights(AutoModelForSequenceClassification, path, dtype, config=config, ignore_mismatched_sizes=True)
    heads = ("score.", "classifier.", "pooler.", "pre_classifier.", "classification_head.")
    lost = [name for name in missing if not any(h in name for h in heads)]
    if lost:
        raise UserError(f"the weights lack {len(lost)} tensors of the trunk, such as '{lost[0]}'.", where=str(path))
    fresh_head(last_linear(model, outputs), key / "head")
    return _wrap(model, path, pad_token, rendering, precision)


def load_reward(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    pad_token: str | None = None,
    rendering: Rendering = "template",
    precision: Precision = "float32",
) -> RewardModel:
    """Load a trained reward model from a folder or hub name.

    Where its tokenizer pads with eos, it is read at the token before eos, as transformers' own forward does; where it has no padding
    token, any other will do, since masks say what is padding.

    Raises:
        UserError: nothing there, broken weights, or a model without a trained scalar head.
    """
    if (Path(path) / SETTINGS).is_file():
        return load_text_reward(path)
    config = load_model_config(path)
    kinds = list(getattr(config, "architectures", None) or [])
    several = config.num_labels > 1 and getattr(config, "trueup_outputs", 0) == config.num_labels
    if not any("SequenceClassification" in kind for kind in kinds) or not (config.num_labels == 1 or several):
        raise UserError(
            f"holds {kinds[0] if kinds else 'a model'} with {config.num_labels} labels, not a reward model: a scalar head would be random. "
            "Train one on it first (`trueup reward`).",
            where=str(path),
        )
    model, missing = load_weights(AutoModelForSequenceClassification, path, dtype)
    if missing:
        raise UserError(f"the weights lack '{missing[0]}', which would stay random.", where=str(path))
    if not hasattr(model, "score"):
        return _wrap(model, path, pad_token, rendering, precision)
    tokenizer = load_tokenizer(path, pad_token, any_pad=True)
    return TrunkReward(model, tokenizer, rendering, precision, reads_eos=tokenizer.pad_token_id != tokenizer.eos_token_id)


def shared_tokenizer(policy: Policy, reward: RewardModel) -> PreTrainedTokenizerFast:
    """The one tokenizer that policy and reward model have; token-level uses of a reward model need it.

    Raises:
        UserError: they have two, or the reward model reads text only.
    """
    if reward.tokenizer is None or not same_tokenizer(policy.tokenizer, reward.tokenizer):
        raise UserError(
            "this method reads the reward model token by token, so policy and reward model need one tokenizer. Train the reward "
            "model on the policy's own trunk."
        )
    return policy.tokenizer


def _wrap(model: Any, path: str | Path, pad_token: str | None, rendering: Rendering, precision: Precision) -> TrunkReward | EncoderReward:
    # every causal classifier of transformers calls its head `score`; encoders have a `classifier`
    if hasattr(model, "score"):
        return TrunkReward(model, load_tokenizer(path, pad_token), rendering, precision)
    return EncoderReward(model, load_tokenizer(path, pad_token, needs_eos=False))
