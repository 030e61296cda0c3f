"""Reward models: a trunk with a scalar head. Text, with a `finished` flag, is what they read; tokens only inside."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Rendering, Sequences, decode_replies, encode_prompts, encode_replies, fit, load_tokenizer, pack, same_tokenizer
from trueup.learn.table import Table
from trueup.models.loading import load_model_config, load_weights, seeded, without_dropout
from trueup.models.policy import Policy, context_of, merged


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
        """Features of prompts with replies, one row each; reusable as long as the trained part does not make them."""
        ...

    def score(self, features: Table) -> Tensor:
        """[B] float32 raw scores, differentiable in `module`."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_reward` reads."""
        ...


class TrunkReward:
    """A causal trunk with a linear head, read at the last valid token by our own mask.

    Args:
        model: a ``...ForSequenceClassification`` with one label and a causal trunk.
        tokenizer: of the trunk.
        rendering: how messages become text, see `render_prompt`.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast, rendering: Rendering = "template") -> None:
        if tokenizer.pad_token_id == tokenizer.eos_token_id:
            # transformers' own forward looks for the last token that is not padding, and would read before eos
            raise UserError("a reward model's padding token must differ from eos. Set `pad_token` to another existing token.")
        self.model = without_dropout(model)
        self._tokenizer, self.rendering = tokenizer, rendering
        model.config.pad_token_id = tokenizer.pad_token_id

    @property
    def module(self) -> nn.Module:
        """The whole classifier."""
        return self.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the trunk."""
        return self._tokenizer

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Sequences:
        """Tokens of prompts with replies; prompts are cut from the left where the context is too short, replies never."""
        tokenizer = self._tokenizer
        prompt_ids = encode_prompts(tokenizer, prompts, rendering=self.rendering)
        reply_ids = encode_replies(tokenizer, replies)
        return pack(fit(tokenizer, prompt_ids, reply_ids, context_of(self.model)), reply_ids, tokenizer.pad_token_id)

    def score(self, features: Table) -> Tensor:
        """[B] Score at each row's last valid token."""
        assert isinstance(features, Sequences)
        trunk = self.model.base_model
        hidden = trunk(
            input_ids=features.tokens, attention_mask=features.attention(), position_ids=features.positions(), use_cache=False
        ).last_hidden_state
        rows = torch.arange(len(features), device=hidden.device)
        return self.model.score(hidden[rows, features.last()]).squeeze(-1).float()

    def from_policy_tokens(self, sequences: Sequences, policy_tokenizer: PreTrainedTokenizerFast) -> Sequences | None:
        """The policy's own tokens as features, or None where reading them as text would give other tokens.

        Args:
            sequences: the policy's prompts and replies.
            policy_tokenizer: of the policy.
        """
        if not same_tokenizer(policy_tokenizer, self._tokenizer):
            return None
        again = encode_replies(self._tokenizer, decode_replies(policy_tokenizer, sequences.replies, sequences.mask))
        tokens = [row[valid].tolist() for row, valid in zip(sequences.replies, sequences.mask, strict=True)]
        return sequences if again == tokens else None

    def save(self, folder: str | Path) -> None:
        """Write a folder that `AutoModelForSequenceClassification` and `load_reward` load."""
        self.model.save_pretrained(str(folder))
        self._tokenizer.save_pretrained(str(folder))


def reward_from_policy(policy: Policy, key: Key, rendering: Rendering = "template") -> TrunkReward:
    """A reward model with a copy of the policy's trunk and a fresh head."""
    source = merged(policy.model)
    config = copy.deepcopy(source.config)
    config.num_labels, config.pad_token_id = 1, policy.tokenizer.pad_token_id
    with seeded(key):
        model = AutoModelForSequenceClassification.from_config(config)
    model = model.to(next(source.parameters()).dtype)
    model.base_model.load_state_dict(source.base_model.state_dict())
    fresh_head(model.score, key / "head")
    return TrunkReward(model, policy.tokenizer, rendering)


def fresh_head(head: nn.Linear, key: Key) -> None:
    """Draw a scalar head's weights from N(0, 1 / (d + 1)), bias 0 (Stiennon et al. 2020, code of lm-human-preferences)."""
    generator = torch.Generator().manual_seed(key.integer())
    with torch.no_grad():
        noise = torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.in_features + 1)
        head.weight.copy_(noise)
        if head.bias is not None:
            head.bias.zero_()


def load_reward(path: str | Path, *, dtype: torch.dtype = torch.float32, pad_token: str | None = None) -> RewardModel:
    """Load a trained reward model from a folder or hub name.

    Raises:
        UserError: nothing there, broken weights, or a model without a trained scalar head.
    """
    config = load_model_config(path)
    kinds = list(getattr(config, "architectures", None) or [])
    if not any("SequenceClassification" in kind for kind in kinds) or config.num_labels != 1:
        raise UserError(
            f"holds {kinds[0] if kinds else 'a model'} with {config.num_labels} labels, not a reward model: a scalar head would be random. "
            "Train one with `trueup reward`.",
            where=str(path),
        )
    tokenizer = load_tokenizer(path, pad_token)
    model, missing = load_weights(AutoModelForSequenceClassification, path, dtype)
    if missing:
        raise UserError(f"the weights lack '{missing[0]}', which would stay random.", where=str(path))
    return TrunkReward(model, tokenizer)


_ = AutoConfig
