"""The one seam between training and sampling: an inference copy of a policy, refreshed before each collection."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch

from trueup.core.rng import Key
from trueup.data.tokens import Ids
from trueup.decoding.cached import CacheDecoder
from trueup.decoding.sample import Decoder, Sampled, sample
from trueup.models.policy import Policy, merged

Precision = Literal["float32", "bf16"]


class Rollout:
    """An unsharded inference copy of a policy.

    Args:
        policy: whose weights are copied.
        precision: of the copy's weights and activations; logits and log-probabilities are float32 always.
    """

    def __init__(self, policy: Policy, precision: Precision = "float32") -> None:
        self.policy, self.precision = policy, precision
        self._model: Any = None
        self.refresh()

    def refresh(self) -> None:
        """Take over the policy's current weights."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        source = merged(self.policy.model)
        if source is self.policy.model:
            source = copy.deepcopy(source)
        self._model = source.to(dtype).eval().requires_grad_(False)

    def decoder(self) -> Decoder:
        """A fresh decoder over the copy's weights."""
        return CacheDecoder(self._model)

    def sample(
        self,
        prompt_ids: list[Ids],
        *,
        num_samples: int,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        key: Key,
        first_row: int = 0,
    ) -> Sampled:
        """Draw replies; rows are the prompts, each repeated ``num_samples`` times in a row.

        Args:
            prompt_ids: token ids of each prompt.
            num_samples: K, replies a prompt.
            max_tokens: the most tokens a reply may have, eos included.
            temperature: divides the logits; 0 takes the most probable token.
            top_p: keep the most probable tokens that hold this share; 1 keeps all.
            key: of the collection; row ``r`` uses the stream of global row ``first_row + r``.
            first_row: global number of the first row.
        """
        tokenizer = self.policy.tokenizer
        rows = range(first_row, first_row + len(prompt_ids) * num_samples)
        return sample(
            self.decoder(),
            prompt_ids,
            num_samples=num_samples,
            uniforms=key.uniforms(rows, max_tokens),
            temperature=temperature,
            top_p=top_p,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        )
