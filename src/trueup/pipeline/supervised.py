"""The first policy: given, or made on the world's vocabulary, and fine-tuned on demonstrations."""

from __future__ import annotations

import math
from pathlib import Path

from trueup.core.errors import UserError
from trueup.core.rng import epoch_rows
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
    folder = context.run.checkpoint(STAGE)
    if context.run.done(STAGE) is None:
        share(context, STAGE, folder, lambda: _depends_on(context), lambda: _make(context, folder))
    return load_policy(folder, lora=lora_of(context.config.policy_model), precision=context.precision)


def _make(context: Context, folder: Path) -> None:
    policy = base_policy(context)
    facts = _fine_tune(context, policy)
    if context.accelerator.is_main_process:
        with atomic_folder(folder) as new:
            policy.save(new)
        context.run.mark_done(STAGE, facts)
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


def base_policy(context: Context) -> Policy:
    """The model named in the configuration, or a small new one."""
    config = context.config.policy_model
    if config.path is not None:
        return load_policy(resolve_path(config.path, context.base), pad_token=config.pad_token, precision=context.precision)
    words = context.world.vocabulary()
    if words is None:
        raise UserError(
            "this world has no closed vocabulary, so no small model can be made for it. Set policy_model.path.", where="policy_model"
        )
    tokenizer = tiny_tokenizer(list(words))
    model = tiny_llama(
        len(tokenizer), config.hidden_size, config.layers, config.heads, config.max_positions, key=context.key / "policy_model"
    )
    return Policy(model, tokenizer, context.precision)


def lora_of(config: PolicyModelConfig) -> LoraSettings | None:
    """The adapter's settings as `load_policy` takes them."""
    return None if config.lora is None else LoraSettings(rank=config.lora.rank, alpha=config.lora.alpha, targets=config.lora.targets)


def _fine_tune(context: Context, policy: Policy) -> dict[str, object]:
    config, rows = context.config.sft, list(context.world.demonstrations())
    if config is None or not rows:
        return {"steps": 0, "demonstrations": len(rows)}
    steps = math.ceil(len(rows) * config.epochs / config.batch_size)
    key = context.key / STAGE

    def batch_of(step: int) -> Examples[Demonstration]:
        return Examples.of(rows, epoch_rows(key / "data", len(rows), config.batch_size, step))

    policy.model.requires_grad_(True)
    run_steps(context, STAGE, SFT(policy), batch_of, steps=steps, loop=config.loop, key=key)
    return {"steps": steps, "demonstrations": len(rows)}
