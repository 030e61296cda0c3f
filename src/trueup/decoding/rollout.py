"""The one seam between training and sampling: an inference copy of a policy, refreshed before each collection."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.tokens import Ids
from trueup.decoding.cached import CacheDecoder
from trueup.decoding.fused_llama import FusedLlamaDecoder, FusedWeights, fuse
from trueup.decoding.sample import Decoder, Sampled, sample
from trueup.models.llama import lean_trunk
from trueup.models.policy import DTYPES, Policy, Precision, merged


class Rollout:
    """An unsharded inference copy of a policy.

    Args:
        policy: whose weights are copied.
        precision: of matrix products; logits and log-probabilities are float32 always.
        fused: use the fused path where the architecture allows; off, every architecture goes through transformers' cache.
    """

    def __init__(self, policy: Policy, precision: Precision = "float32", *, fused: bool = True) -> None:
        self.policy, self.precision, self.fused = policy, precision, fused
        self._weights: FusedWeights | None = None
        self._model: Any = None
        self.refresh()

    def refresh(self) -> None:
        """Take over the policy's current weights."""
        dtype = DTYPES[self.precision]
        source = merged(self.policy.model)
        trunk = lean_trunk(source) if self.fused else None
        if trunk is not None:
            self._weights = fuse(trunk, source.get_output_embeddings().weight, dtype)
        elif source is not self.policy.model:  # merging an adapter copied the weights already
            self._model = source.to(dtype).eval()
        elif self._model is None:
            self._model = copy.deepcopy(source).to(dtype).eval()
        else:
            self._model.load_state_dict(source.state_dict())

    @property
    def says_what_policy_says(self) -> bool:
        """Whether its log-probabilities are the policy's in training precision, up to rounding of float32."""
        weights = next(self.policy.model.parameters())
        return self.precision == self.policy.precision == "float32" and weights.dtype == torch.float32

    def decoder(self) -> Decoder:
        """A fresh decoder over the copy."""
        return FusedLlamaDecoder(self._weights) if self._weights is not None else CacheDecoder(self._model)

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
        numbers: Sequence[int] | None = None,
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
            numbers: global number of each prompt, where they do not follow one another; instead of ``first_row``.

        Raises:
            UserError: a prompt leaves no room for ``max_tokens`` in the model's context.
        """
        tokenizer, limit = self.policy.tokenizer, self.policy.max_tokens
        longest = max((len(ids) for ids in prompt_ids), default=0)
        if limit is not None and longest + max_tokens > limit:
            raise UserError(
                f"a prompt of {longest} tokens and {max_tokens} tokens of reply are more than the model's context of {limit}. "
                "Shorten the prompts or the replies."
            )
        rows: Sequence[int] = range(first_row, first_row + len(prompt_ids) * num_samples)
        if numbers is not None:
            rows = [n * num_samples + i for n in numbers for i in range(num_samples)]
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


@cache
def native_bf16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware (AVX512-BF16 or AMX, or a GPU that does)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(f in flags.read_text(encoding="utf-8", errors="replace").split() for f in ("avx512_bf16", "amx_bf16"))
