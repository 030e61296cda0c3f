"""Policies: any causal language model of transformers, with its tokenizer; references that stay behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ContextManager

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.data.tokens import Sequences, load_tokenizer
from trueup.models.loading import load_model_config, load_weights, without_dropout
from trueup.ops.logprobs import chosen_logprobs


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    """Names of the linear layers to adapt; all of them if left out."""


class Policy:
    """A causal language model and its tokenizer. Dropout is off always.

    Args:
        model: a causal model of transformers (or one with a peft adapter).
        tokenizer: with eos and pad, see `trueup.data.tokens.load_tokenizer`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model: Any = without_dropout(model)
        self.tokenizer = tokenizer

    @property
    def max_tokens(self) -> int | None:
        """The context, tokens; None where the model states none."""
        return context_of(self.model)

    def logits(self, sequences: Sequences) -> Tensor:
        """[B, T, V] Logits that predict each reply token, in the model's precision, differentiable."""
        return reply_logits(self.model, sequences)

    def logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """[B, T] float32 log-probability of each reply token in nats under softmax(logits / temperature); 0 where masked."""
        return reply_logprobs(self.model, sequences, temperature)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load; an adapter is merged into its base first."""
        merged(self.model).save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


@dataclass(frozen=True)
class Reference:
    """A policy that does not learn: a frozen copy, or the policy's own model with its adapter off."""

    model: Any
    adapter: bool
    """The model carries the policy's adapter, which is switched off here."""

    def _off(self) -> ContextManager[None]:
        return self.model.disable_adapter() if self.adapter else nullcontext()

    @torch.no_grad()
    def logits(self, sequences: Sequences) -> Tensor:
        """[B, T, V] As `Policy.logits`, without gradient."""
        with self._off():
            return reply_logits(self.model, sequences)

    @torch.no_grad()
    def logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """[B, T] As `Policy.logprobs`, without gradient."""
        with self._off():
            return reply_logprobs(self.model, sequences, temperature)


def load_policy(
    path: str | Path, *, dtype: torch.dtype = torch.float32, lora: LoraSettings | None = None, pad_token: str | None = None
) -> Policy:
    """Load a policy from a Hugging Face folder or hub name.

    Args:
        path: folder or hub name of a causal language model with safetensors weights.
        dtype: of the weights.
        lora: train an adapter on frozen weights instead of the weights.
        pad_token: see `load_tokenizer`.

    Raises:
        UserError: nothing there, pickled or broken weights, weights of another kind of model, no eos, no pad.
    """
    config = load_model_config(path)
    kinds = list(getattr(config, "architectures", None) or [])
    if any("SequenceClassification" in kind for kind in kinds):
        raise UserError(f"holds a {kinds[0]}, a reward model, not a policy: its language head would be random.", where=str(path))
    tokenizer = load_tokenizer(path, pad_token)
    model, missing = load_weights(AutoModelForCausalLM, path, dtype)
    if missing:
        raise UserError(f"the weights lack {len(missing)} tensors that would stay random, such as '{missing[0]}'.", where=str(path))
    return Policy(adapted(model, lora) if lora else model, tokenizer)


def adapted(model: PreTrainedModel, lora: LoraSettings) -> Any:
    """The model with frozen weights and a trainable low-rank adapter, which starts as the identity."""
    from peft import LoraConfig, get_peft_model

    targets: Any = list(lora.targets) if lora.targets else "all-linear"
    return get_peft_model(
        model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    )


def reference_of(policy: Policy) -> Reference:
    """The policy as it is now, for good: the same model with its adapter off where it has one, else a frozen copy."""
    if has_adapter(policy.model):
        return Reference(policy.model, adapter=True)
    model = copy.deepcopy(policy.model)
    model.requires_grad_(False)
    return Reference(model.eval(), adapter=False)


def has_adapter(model: nn.Module) -> bool:
    """Whether the model carries a peft adapter."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def merged(model: Any) -> PreTrainedModel:
    """The model itself, or a copy with its adapter merged into the weights."""
    return copy.deepcopy(model).merge_and_unload() if has_adapter(model) else model


def context_of(model: Any) -> int | None:
    """Most tokens a model was made for; None where its configuration does not say."""
    found = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    return int(found) if found else None


def reply_logits(model: Any, sequences: Sequences) -> Tensor:
    """[B, T, V] Logits that predict each reply token."""
    start, width = sequences.prompt_width, sequences.tokens.shape[1]
    out = model(
        input_ids=sequences.tokens[:, : width - 1] if width > start else sequences.tokens,
        attention_mask=sequences.attention()[:, : width - 1],
        position_ids=sequences.positions()[:, : width - 1],
        use_cache=False,
        logits_to_keep=width - start,
    )
    return out.logits[:, -(width - start) :]


def reply_logprobs(model: Any, sequences: Sequences, temperature: float = 1.0) -> Tensor:
    """[B, T] float32 nats, 0 where masked."""
    return chosen_logprobs(reply_logits(model, sequences), sequences.replies, sequences.mask, temperature)


@contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Matrix products in ``dtype`` (bfloat16) inside; as they are for None or float32."""
    if dtype is None or dtype == torch.float32:
        yield
    else:
        with torch.autocast("cpu", dtype=dtype):
            yield
