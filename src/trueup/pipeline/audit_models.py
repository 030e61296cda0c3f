"""The models of an audit, from their folders: checkpoints with their steps, LoRA adapters on their base, reward models, gold."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from trueup.core.errors import UserError, one_line
from trueup.data.rows import Prompt, Reply
from trueup.models.loading import load_model_config
from trueup.models.policy import Policy, load_policy
from trueup.models.reward import RewardModel, TrunkReward, load_reward
from trueup.rewards.learned import LearnedReward
from trueup.rewards.verifiable.pattern import Pattern
from trueup.sandbox.sentiment import sentiment_analyser

ADAPTER = "adapter_config.json"
Gold = Callable[[Sequence[Prompt], Sequence[Reply]], list[float]]
"""The truth about replies, row by row."""


def steps_of(paths: Sequence[str]) -> list[int]:
    """The step of each checkpoint: the number its name ends in, or its place where one has none or two have the same."""
    found = [re.search(r"[-_](\d+)$", Path(p).name) for p in paths]
    numbers = [int(m[1]) for m in found if m is not None]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))


def check_checkpoint(path: str) -> None:
    """Look at a checkpoint without loading it, so that a mistyped name costs nothing.

    Raises:
        UserError: nothing usable there.
    """
    if _adapter_base(path) is not None:
        return
    kinds = list(getattr(load_model_config(path), "architectures", None) or [])
    if any("SequenceClassification" in kind for kind in kinds):
        raise UserError(f"holds a {kinds[0]}, a reward model, not a policy.", where=path)


def load_checkpoint(path: str, reference: str, pad_token: str | None = None) -> Policy:
    """A checkpoint: a whole model, or an adapter merged into the base that it names, or, where that is no folder here, into the reference.

    Raises:
        UserError: nothing usable there, or an adapter that does not fit.
    """
    named = _adapter_base(path)
    if named is None:
        return load_policy(path, pad_token=pad_token)
    from peft import PeftModel

    policy = load_policy(named if Path(named).is_dir() else reference, pad_token=pad_token)
    try:
        with warnings.catch_warnings():
            # peft only warns where tensors of the adapter find no place, and the model would stay what it was
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)
            merged = PeftModel.from_pretrained(policy.model, path).merge_and_unload()
    except (UserWarning, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"the adapter does not fit its base ({one_line(error)[:200]}).", where=path) from error
    return Policy(merged, policy.tokenizer, policy.precision)


def load_rewards(paths: Sequence[str], policy: Policy, rendering: str) -> dict[str, LearnedReward]:
    """Reward models as ``rm-0``, ``rm-1``, …; replies longer than their context are cut, since one must not end an audit of thousands.

    Raises:
        UserError: one cannot be loaded.
    """
    return {f"rm-{i}": LearnedReward(_reward(path, rendering), None, policy.tokenizer) for i, path in enumerate(paths)}


def gold_of(kind: str | None, rendering: str) -> Gold | None:
    """What is believed true; None where nothing is.

    Args:
        kind: see `trueup.pipeline.audit_config.AuditConfig.gold`.
        rendering: how messages become text.

    Raises:
        UserError: no such kind or model, or no regular expression.
    """
    if kind is None:
        return None
    if kind == "vader":
        score = sentiment_analyser("--gold vader")
        return lambda prompts, replies: [score(r.text) for r in replies]
    if kind.startswith("pattern:"):
        check = Pattern(kind.removeprefix("pattern:"))
        return lambda prompts, replies: [float(check.holds(p.text, r)) for p, r in zip(prompts, replies, strict=True)]
    model = LearnedReward(_reward(kind, rendering))
    return lambda prompts, replies: [float(x) for x in model.raw([p.text for p in prompts], replies)]


def check_vocabulary(policy: Policy, reference: Policy, path: str) -> None:
    """A reference must write the same tokens.

    Raises:
        UserError: it has another vocabulary.
    """
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise UserError(
            "has another vocabulary than the reference, so no KL can be measured. Give the policy it was trained from.", where=path
        )


def _adapter_base(path: str) -> str | None:
    """The base that an adapter names; None where the folder is no adapter's."""
    folder = Path(path)
    if not (folder / ADAPTER).is_file():
        return None
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError("has no adapter_model.safetensors; only safetensors are loaded.", where=path)
    try:
        return str(json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"is not the description of an adapter ({one_line(error)}).", where=str(folder / ADAPTER)) from error


def _reward(path: str, rendering: str) -> RewardModel:
    model = load_reward(path, rendering="roles" if rendering == "roles" else "template")
    if isinstance(model, TrunkReward):
        model.cut_replies = True
    return model
