"""The first policy: given, or made on the world's vocabulary, and fine-tuned on demonstrations."""

from __future__ import annotations

import math
from pathlib import Path

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Demonstration
from trueup.learn.table import Examples
from trueup.models.policy import LoraSettings, Policy, load_policy
from trueup.models.tiny import tiny_llama, tiny_tokenizer
from trueup.optimizers.sft import SFT
from trueup.pipeline.config import PolicyModelConfig, resolve_path
from trueup.pipeline.context import Context
from trueup.pipeline.shared import demonstrations_digest, model_digest, share
from trueup.pipeline.steps import run_steps
from trueup.store.atomic import atomic_folder

STAGE = "sft"


def sft_policy(context: Context) -> Policy:
    """The policy all arms start from; fine-tuned now, or read back where that was done."""
    folder, config = _made(context, STAGE, context.key), context.config.policy_model
    return load_policy(folder, lora=lora_of(config), precision=context.precision, gradient_checkpointing=config.gradient_checkpointing)


def other_pretraining(context: Context, member: int) -> Policy:
    """An SFT policy that shares nothing with the run's but settings and data: a trunk for a reward model with its own pretraining.

    Raises:
        UserError: the run's policy is given, so it has one pretraining.
    """
    if context.config.policy_model.path is not None:
        raise UserError(
            "members that differ by pretraining need trunks of their own, but the policy is given. Name others in 'trunks'.", where="arms"
        )
    folder = _made(context, f"{STAGE}-pretraining-{member}", context.key / "pretraining" / member)
    return load_policy(folder, precision=context.precision)


def _made(context: Context, stage: str, key: Key) -> Path:
    folder = context.run.checkpoint(stage)
    if context.run.done(stage) is None:
        share(context, stage, folder, lambda: _depends_on(context), lambda: _make(context, stage, key))
    return folder


def _make(context: Context, stage: str, key: Key) -> None:
    policy = base_policy(context, key)
    facts = _fine_tune(context, policy, stage, key)
    if context.accelerator.is_main_process:
        with atomic_folder(context.run.checkpoint(stage)) as new:
            policy.save(new)
        context.run.mark_done(stage, facts)
    context.accelerator.wait_for_everyone()


def _depends_on(context: Context) -> dict[str, object] | None:
    config = context.config
    model = model_digest(config.policy_model.path, context.base)
    if model is None:
        return None
    return {
        "model": model,
        "policy_model": config.policy_model.model_dump(mode="json"),
        "words": list(context.world.vocabulary() or ()) if config.policy_model.path is None else [],
        "sft": None if config.sft is None else config.sft.model_dump(mode="json"),
        "demonstrations": demonstrations_digest(context.world.demonstrations()),
    }


def base_policy(context: Context, key: Key) -> Policy:
    """The model named in the configuration, or a small new one drawn from ``key``."""
    config = context.config.policy_model
    if config.path is not None:
        path, again = resolve_path(config.path, context.base), config.gradient_checkpointing
        return load_policy(path, pad_token=config.pad_token, precision=context.precision, gradient_checkpointing=again)
    words = context.world.vocabulary()
    if words is None:
        raise UserError(
            "this world has no closed vocabulary, so no small model can be made for it. Set policy_model.path.", where="policy_model"
        )
    tokenizer = tiny_tokenizer(list(words))
    model = tiny_llama(len(tokenizer), config.hidden_size, config.layers, config.heads, config.max_positions, key=key / "policy_model")
    return Policy(model, tokenizer, context.precision)


def lora_of(config: PolicyModelConfig) -> LoraSettings | None:
    """The adapter's settings as `load_policy` takes them."""
    return None if config.lora is None else LoraSettings(rank=config.lora.rank, alpha=config.lora.alpha, targets=config.lora.targets)


def _fine_tune(context: Context, policy: Policy, stage: str, root: Key) -> dict[str, object]:
    config, rows = context.config.sft, list(context.world.demonstrations())
    if config is None or not rows:
        return {"steps": 0, "demonstrations": len(rows)}
    steps = math.ceil(len(rows) * config.epochs / config.batch_size)
    key = root / STAGE

    def batch_of(step: int) -> Examples[Demonstration]:
        return Examples.of(rows, epoch_rows(key / "data", len(rows), config.batch_size, step))

    policy.model.requires_grad_(True)
    run_steps(context, stage, SFT(policy), batch_of, steps=steps, loop=config.loop, key=key)
    return {"steps": steps, "demonstrations": len(rows)}
