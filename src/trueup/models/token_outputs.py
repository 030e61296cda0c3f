"""The head of a reward model at every token of a reply, for rewards that are given before the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.rows import Reply
from trueup.data.segments import encoded_ends
from trueup.data.tokens import Sequences
from trueup.learn.as_forward import as_forward
from trueup.models.llama import lean_trunk, reply_states
from trueup.models.policy import DTYPES, autocast, base_of
from trueup.models.reward import RewardModel, TrunkReward


def token_outputs(model: TrunkReward, sequences: Sequences) -> Tensor:
    """[B, T, H] float32 outputs of the head at each reply token, differentiable in the model; what stands in padding means nothing.

    At a row's last token they are what `TrunkReward.outputs` gives.

    Args:
        model: a causal trunk with a head.
        sequences: from its `encode`.
    """
    return as_forward(model.model, partial(_outputs, model, sequences))


def _outputs(model: TrunkReward, sequences: Sequences) -> Tensor:
    trunk = lean_trunk(model.model)
    if trunk is not None:
        hidden = reply_states(trunk, sequences, DTYPES[model.precision]).replies
    else:
        inputs = {"input_ids": sequences.tokens, "attention_mask": sequences.attention(), "position_ids": sequences.positions()}
        with autocast(sequences.tokens.device, model.precision):
            hidden = base_of(model.model).base_model(**inputs, use_cache=False).last_hidden_state[:, sequences.prompt_width :]
    head = model.head
    hidden = torch.where(sequences.mask[..., None], hidden, torch.zeros_like(hidden))
    return F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float()


def read_ends(model: TrunkReward, replies: Sequence[Reply]) -> list[list[int]]:
    """For each token that the model reads of a reply, the characters of the text up to its end; tokens that `encode` cuts off included."""
    return encoded_ends(model.tokenizer, replies if model.reads_eos else [replace(r, finished=False) for r in replies])


def needs_trunk(model: RewardModel) -> TrunkReward:
    """The model, where it reads token by token.

    Raises:
        UserError: it reads the whole text at once.
    """
    if not isinstance(model, TrunkReward):
        raise UserError("a dense reward reads token by token, and this model reads the whole text. Use a model with a causal trunk.")
    return model
