"""One model from the weights of several, from folder to folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from trueup.core.errors import UserError
from trueup.models.embedding_reward import SETTINGS
from trueup.models.loading import load_model_config
from trueup.models.merge import RELATED, merged_policy, merged_reward, relatedness
from trueup.models.policy import Policy, load_policy
from trueup.models.reward import RewardModel, load_reward
from trueup.store.atomic import atomic_folder

Kind = Literal["policy", "reward model"]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What was made of what."""

    out: str
    kind: Kind
    models: tuple[str, ...]
    weights: tuple[float, ...]
    relatedness: tuple[float, ...]
    """Cosine of each model's weights with the first one's."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def merge(
    models: Sequence[str], weights: Sequence[float] | None, out: Path, *, pad_token: str | None = None, unrelated: bool = False
) -> Merged:
    """Write the model whose weights are the weighted mean of others'.

    Args:
        models: at least two folders or hub names: all policies, or all reward models.
        weights: one a model, adding up to 1; equal if None.
        out: new or empty folder.
        pad_token: see `trueup.data.tokens.load_tokenizer`.
        unrelated: also merge models that seem to have no common beginning.

    Raises:
        UserError: fewer than two models, weights that do not fit, models of different kinds, architectures, tokenizers or beginnings, or
            a folder that holds something.
    """
    shares = _shares(models, weights)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is not an empty folder. Choose another with --out.", where=str(out))
    kinds = {path: kind_of(path) for path in models}
    other = next((p for p in models if kinds[p] != kinds[models[0]]), None)
    if other is not None:
        raise UserError(f"is a {kinds[other]}, but {models[0]} is a {kinds[models[0]]}. Merge models of one kind.", where=other)
    made: Policy | RewardModel
    modules: list[nn.Module]
    if kinds[models[0]] == "policy":
        policies = [load_policy(p, pad_token=pad_token) for p in models]
        made, modules = merged_policy(policies, shares), [p.model for p in policies]
    else:
        rewards = [load_reward(p, pad_token=pad_token) for p in models]
        made, modules = merged_reward(rewards, shares), [r.module for r in rewards]
    found = _related(models, modules, unrelated)
    with atomic_folder(out) as new:
        made.save(new)
    return Merged(out=str(out), kind=kinds[models[0]], models=tuple(models), weights=tuple(shares), relatedness=tuple(found))


def kind_of(path: str) -> Kind:
    """Whether a folder or hub name holds a policy or a reward model.

    Raises:
        UserError: neither.
    """
    if (Path(path) / SETTINGS).is_file():
        return "reward model"
    architectures = list(getattr(load_model_config(path), "architectures", None) or [])
    if any("SequenceClassification" in a for a in architectures):
        return "reward model"
    if any("CausalLM" in a or "LMHead" in a for a in architectures):
        return "policy"
    raise UserError(
        f"holds {architectures[0] if architectures else 'no named model'}, neither a causal language model nor a reward model.", where=path
    )


def _shares(models: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if len(models) < 2:
        raise UserError(f"takes two models or more, got {len(models)}. Repeat --model.", where="--model")
    if weights is None:
        return [1 / len(models)] * len(models)
    if len(weights) != len(models):
        raise UserError(f"{len(models)} models but {len(weights)} weights. Give one --weight for each --model, or none.", where="--weight")
    if not abs(sum(weights) - 1) < 1e-6:
        raise UserError(f"the weights add up to {sum(weights):g}, not to 1, which would shrink or stretch the model.", where="--weight")
    return list(weights)


def _related(models: Sequence[str], modules: Sequence[nn.Module], unrelated: bool) -> list[float]:
    found = [1.0] + [relatedness(modules[0], m) for m in modules[1:]]
    for path, cosine in zip(models, found, strict=True):
        if cosine < RELATED and not unrelated:
            raise UserError(
                f"seems not to have begun as {models[0]} did: the cosine of their weights is {cosine:.2f}, where fine-tuned copies of one "
                "model have nearly 1. An average of the two would be neither. Merge models from one beginning, or insist with --unrelated.",
                where=path,
            )
    return found
