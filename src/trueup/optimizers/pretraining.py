"""Demonstrations mixed into reinforcement learning (PPO-ptx, Ouyang et al. 2022, arXiv:2203.02155, eq. 2).

Deviations:
1. The corpus is the demonstrations that the run has, not the text that the policy was pretrained on.
2. Every sampled reply brings one demonstration along, drawn with replacement; the term is the mean over their reply tokens times the
   coefficient, so the two terms keep their proportion whatever the sizes of batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration
from trueup.data.tokens import Sequences, encode_prompts, encode_replies, fit, pack
from trueup.models.policy import Policy
from trueup.ops.masking import keep
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.protocol import OnlineConfig


def encoded(policy: Policy, rows: Sequence[Demonstration]) -> Sequences:
    """Prompts with replies in the policy's tokens; prompts are cut from the left where the context is too short."""
    tokenizer = policy.tokenizer
    replies = encode_replies(tokenizer, [d.reply for d in rows])
    prompts = fit(tokenizer, encode_prompts(tokenizer, [d.prompt.text for d in rows]), replies, policy.max_tokens)
    return pack(prompts, replies, tokenizer.pad_token_id)


def sampled_rows(batch: PromptBatch, config: OnlineConfig) -> Tensor:
    """[B * K] Global row numbers of the replies that are sampled to a batch of prompts."""
    k = config.num_generations
    return (batch.row[:, None] * k + torch.arange(k)).flatten()


def check_mix(coefficient: float, demonstrations: Sequence[Demonstration]) -> None:
    """Whether there is something to mix in.

    Raises:
        UserError: a coefficient, but no demonstrations.
    """
    if coefficient and not demonstrations:
        raise UserError(
            "mixes in demonstrations, and this world has none. Set it to 0, or give the world demonstrations.", where="optimizer.ptx_coef"
        )


class PretrainingMix:
    """What is drawn, and what it costs.

    Args:
        policy: that learns.
        demonstrations: to draw from.
        coefficient: of the term; 0 draws nothing.

    Raises:
        UserError: a coefficient, but no demonstrations.
    """

    def __init__(self, policy: Policy, demonstrations: Sequence[Demonstration], coefficient: float) -> None:
        if coefficient and not demonstrations:
            raise UserError(
                "ptx_coef mixes in demonstrations, and this world has none. Set ptx_coef: 0, or give the world demonstrations.",
                where="optimizer.ptx_coef",
            )
        self.policy, self.demonstrations, self.coefficient = policy, tuple(demonstrations), coefficient

    def draw(self, key: Key, rows: Tensor) -> Sequences:
        """[B] demonstrations, one for each global row number of a sampled reply; without columns where the coefficient is 0."""
        device = self.policy.model.device
        if not self.coefficient:
            none = torch.zeros(len(rows), 0, dtype=torch.bool, device=device)
            return Sequences(tokens=none.long(), prompt_mask=none, mask=none)
        uniform = (key / "demonstrations").uniforms(rows.tolist(), 1)[:, 0]
        picked = [self.demonstrations[int(u * len(self.demonstrations))] for u in uniform]
        return encoded(self.policy, picked).to(device)

    def loss(self, drawn: Sequences) -> Tensor:
        """[B, D] The coefficient times minus the log-probability of each token, nats; 0 in padding."""
        if not self.coefficient:
            return drawn.mask.float()
        return -self.coefficient * keep(self.policy.logprobs(drawn), drawn.mask)
