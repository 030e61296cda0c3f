"""Policies: any causal language model of transformers, with its tokenizer; references that stay behind."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.tokens import Sequences, load_tokenizer
from trueup.learn.as_forward import as_forward
from trueup.models.llama import lean_trunk, reply_states
from trueup.models.loading import load_model_config, load_weights, quiet, recompute_activations, seeded, without_dropout
from trueup.ops.logprobs import chosen_logprobs, head_logprobs

Precision = Literal["float32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
_PLAIN_HEADS = ("gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt", "phi3", "qwen2", "qwen3", "smollm3")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    """Names of the linear layers to adapt; all of them if left out."""
    seed: int = 0
    """Of the adapter's first matrices; the second ones start at 0."""


class Policy:
    """A causal language model and its tokenizer. Dropout is off always.

    Args:
        model: a causal model of transformers (or one with a peft adapter).
        tokenizer: with eos and pad, see `trueup.data.tokens.load_tokenizer`.
        precision: of matrix products in `logits` and `logprobs`; weights keep their own.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, precision: Precision = "float32") -> None:
        self.model: Any = without_dropout(model)
        self.tokenizer, self.precision = tokenizer, precision

    @property
    def max_tokens(self) -> int | None:
        """The context, tokens; None where the model states none."""
        return context_of(self.model)

    def logits(self, sequences: Sequences) -> Tensor:
        """[B, T, V] Logits that predict each reply token, in the model's precision, differentiable."""
        return reply_logits(self.model, sequences, self.precision)

    def logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """[B, T] float32 log-probability of each reply token in nats under softmax(logits / temperature); 0 where masked."""
        return reply_logprobs(self.model, sequences, temperature, self.precision)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load; an adapter is merged into its base first."""
        with quiet():
            merged(self.model).save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


@dataclass(frozen=True)
class Reference:
    """A policy that does not learn: a frozen copy, or the policy's own model with its adapter off."""

    model: Any
    adapter: bool
    """The model carries the policy's adapter, which is switched off here."""
    precision: Precision = "float32"

    def _off(self) -> AbstractContextManager[None]:
        return self.model.disable_adapter() if self.adapter else nullcontext()

    @torch.no_grad()
    def logits(self, sequences: Sequences) -> Tensor:
        """[B, T, V] As `Policy.logits`, without gradient."""
        with self._off():
            return reply_logits(self.model, sequences, self.precision)

    @torch.no_grad()
    def logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """[B, T] As `Policy.logprobs`, without gradient."""
        with self._off():
            return reply_logprobs(self.model, sequences, temperature, self.precision)


def load_policy(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    lora: LoraSettings | None = None,
    pad_token: str | None = None,
    precision: Precision = "float32",
    gradient_checkpointing: bool = False,
) -> Policy:
    """Load a policy from a Hugging Face folder or hub name.

    Args:
        path: folder or hub name of a causal language model with safetensors weights.
        dtype: of the weights.
        lora: train an adapter on frozen weights instead of the weights.
        pad_token: see `load_tokenizer`.
        precision: see `Policy`.
        gradient_checkpointing: see `trueup.models.loading.recompute_activations`.

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
    policy = Policy(adapted(model, lora) if lora else model, tokenizer, precision)
    if gradient_checkpointing:
        recompute_activations(policy.model)
    return policy


def adapted(model: PreTrainedModel, lora: LoraSettings) -> Any:
    """The model with frozen weights and a trainable low-rank adapter, which starts as the identity."""
    from peft import LoraConfig, get_peft_model

    targets: Any = list(lora.targets) if lora.targets else "all-linear"
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings(), seeded(Key(lora.seed) / "lora"):
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers under a name that the latter is giving up
        return get_peft_model(model, settings)


def reference_of(policy: Policy) -> Reference:
    """The policy as it is now, for good: the same model with its adapter off where it has one, else a frozen copy."""
    if has_adapter(policy.model):
        return Reference(policy.model, adapter=True, precision=policy.precision)
    model = copy.deepcopy(policy.model)
    model.requires_grad_(False)
    return Reference(model.eval(), adapter=False, precision=policy.precision)


def policy_of(reference: Reference, tokenizer: PreTrainedTokenizerFast) -> Policy:
    """The reference as a policy to sample from; of an adapted model, a copy without the adapter.

    Args:
        reference: frozen.
        tokenizer: of the policy it belongs to.
    """
    model = copy.deepcopy(reference.model).unload() if reference.adapter else reference.model
    return Policy(model, tokenizer, reference.precision)


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


def reply_logits(model: Any, sequences: Sequences, precision: Precision = "float32") -> Tensor:
    """[B, T, V] Logits that predict each reply token."""
    trunk = lean_trunk(model)
    if trunk is not None:
        hidden = _predicting(trunk, sequences, precision)
        return F.linear(hidden, model.lm_head.weight.to(hidden.dtype))
    width = sequences.mask.shape[1]
    with autocast(sequences.tokens.device, precision):
        return model(**_inputs(sequences), use_cache=False, logits_to_keep=width).logits[:, -width:]


def reply_logprobs(model: Any, sequences: Sequences, temperature: float = 1.0, precision: Precision = "float32") -> Tensor:
    """[B, T] nats, 0 where masked; float32 (float64 of float64 weights)."""
    if temperature <= 0:
        raise ValueError(f"log-probabilities need a temperature above 0, got {temperature}")
    head, trunk, mask = _plain_head(model), lean_trunk(model), sequences.mask
    if trunk is None:
        sequences = sequences.trimmed()  # a micro-batch of short rows need not be as wide as the batch
    if head is None:
        values = chosen_logprobs(reply_logits(model, sequences, precision), sequences.replies, sequences.mask, temperature)
        return F.pad(values, (0, mask.shape[1] - values.shape[1]))
    plain = head

    def chosen() -> Tensor:
        hidden = _predicting(trunk, sequences, precision) if trunk is not None else _states(model, sequences, precision)
        return head_logprobs(hidden[sequences.mask], plain.weight, sequences.replies[sequences.mask], temperature)

    values = as_forward(model, chosen)
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def base_of(model: Any) -> Any:
    """The transformers model inside an adapter's wrapper, its adapted layers included."""
    return model.get_base_model() if has_adapter(model) else model


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Matrix products in that precision inside."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


def _inputs(sequences: Sequences) -> dict[str, Tensor]:
    """What predicts the reply: all columns but the last."""
    return {
        "input_ids": sequences.tokens[:, :-1],
        "attention_mask": sequences.attention()[:, :-1],
        "position_ids": sequences.positions()[:, :-1],
    }


def _states(model: Any, sequences: Sequences, precision: Precision) -> Tensor:
    """[B, T, W] as `_predicting`, from transformers' own pass, in the precision of the head's product."""
    base = base_of(model)
    with autocast(sequences.tokens.device, precision):
        states = base.base_model(**_inputs(sequences), use_cache=False).last_hidden_state
    width = sequences.mask.shape[1]
    return states[:, -width:].to(torch.bfloat16 if precision == "bf16" else base.get_output_embeddings().weight.dtype)


def _predicting(trunk: LlamaModel, sequences: Sequences, precision: Precision) -> Tensor:
    """[B, T, W] states from which each reply token is predicted: the prompt's last, then the reply's but its last."""
    inputs = Sequences(tokens=sequences.tokens[:, :-1], prompt_mask=sequences.prompt_mask, mask=sequences.mask[:, 1:])
    before, replies = reply_states(trunk, inputs, DTYPES[precision])
    return torch.cat([before[:, None], replies], 1)


def _plain_head(model: Any) -> nn.Linear | None:
    """The output layer, where logits are exactly its product with the last hidden state: no scaling, no cap, no bias."""
    base = base_of(model)
    if getattr(base.config, "model_type", None) not in _PLAIN_HEADS:
        return None
    head = base.get_output_embeddings()
    return head if type(head) is nn.Linear and head.bias is None else None
