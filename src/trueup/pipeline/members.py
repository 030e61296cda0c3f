"""Reward models beside the run's first one: members that differ in one thing, heads on one trunk, averaged weights, a Bayesian head.

All are fitted with the run's settings to the run's data and rescaled on the same reference samples; arms share them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from trueup.core.config import digest
from trueup.core.errors import UserError
from trueup.data.pairs import pairs_of
from trueup.data.rows import Judged, Preference, Reply
from trueup.models.embedding_reward import EmbeddingReward, Features, new_embedding_reward
from trueup.models.merge import average_states
from trueup.models.policy import Policy
from trueup.models.reward import RewardModel
from trueup.pipeline.config import resolve_path
from trueup.pipeline.context import Context
from trueup.pipeline.reward import STAGE, first_fit, fitted, keep_reward, saved_reward
from trueup.pipeline.reward_models import new_model, read_reward
from trueup.pipeline.sampling import reference_samples
from trueup.pipeline.shared import folder_digest, model_digest
from trueup.pipeline.supervised import other_pretraining
from trueup.rewards.config import Differ
from trueup.rewards.ensemble import HeadsReward
from trueup.rewards.last_layer import LastLayerReward, fit_posterior
from trueup.rewards.learned import LearnedReward, Scale, measure_scale
from trueup.rewards.linear_mode import linear_path
from trueup.rewards.objectives.heads import HeadsConfig
from trueup.store.atomic import write_text

SCALES_FILE = "trueup_scales.json"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all of them start from."""

    context: Context
    policy: Policy
    """The SFT policy."""
    groups: Sequence[Judged]
    """What reward models learn from."""
    held_out: Sequence[Preference]
    """Pairs that none of them learns from."""


def members(shared: Shared, differ: Differ, count: int, trunks: Sequence[str] | None = None) -> list[LearnedReward]:
    """The run's own reward model and others that differ from it so."""
    others: Sequence[str | None] = trunks or [None] * (count - 1)
    return [member(shared, differ, 0), *(member(shared, differ, i, t) for i, t in enumerate(others, 1))]


def member(shared: Shared, differ: Differ, number: int, trunk: str | None = None) -> LearnedReward:
    """Member ``number`` of those that differ so; 0 is the run's own.

    Args:
        shared: what all members start from.
        differ: see `trueup.rewards.config.Differ`.
        number: from 0.
        trunk: a pretrained trunk of its own.

    Raises:
        UserError: members cannot differ so in this run.
    """
    context = shared.context
    if number == 0:
        return saved_reward(context, context.run.checkpoint(STAGE), shared.policy)
    config = context.reward_stage
    if not config.train:
        raise UserError("members of an ensemble are trained, but reward.train is false.", where="arms")
    name = f"{STAGE}-{differ}-{number}" + (f"-{_short(trunk)}" if trunk else "")
    own = context.key / "members" / differ / number
    head = own / "head" if differ in ("head", "pretraining") else context.key / "reward_model"
    order = own / "order" if differ in ("order", "pretraining") else context.key / STAGE
    adapter = own / "adapter" if differ in ("adapter", "pretraining") else context.key / "reward_model" / "adapter"
    policy, source = _trunk(shared, differ, number, trunk)
    fit = first_fit(context, shared.groups, name=name, key=order, trunk=f"{source} {head.words()} {adapter.words()}")
    return fitted(context, fit, lambda: new_model(context, policy, config, head, path=trunk, adapter=adapter), shared.policy, name)


def _trunk(shared: Shared, differ: Differ, number: int, trunk: str | None) -> tuple[Policy, str]:
    """The policy whose trunk a member copies, and what identifies its beginning."""
    context = shared.context
    if differ != "pretraining":
        return shared.policy, ""
    if context.reward_stage.model.trunk == "embeddings":
        raise UserError("frozen embeddings have one pretraining, so members cannot differ by it. Let them differ by head.", where="arms")
    if trunk is not None:
        return shared.policy, model_digest(trunk, context.base) or resolve_path(trunk, context.base)
    if context.reward_stage.model.trunk == "path":
        raise UserError("members that differ by pretraining need 'trunks', one for each member but the first.", where="arms")
    policy = other_pretraining(context, number)
    return policy, folder_digest(context.run.checkpoint(f"sft-pretraining-{number}"))


def shared_trunk(shared: Shared, count: int, seen_share: float) -> tuple[RewardModel, list[Scale]]:
    """One model with so many heads, and each head's scale."""
    context, config, name = shared.context, shared.context.reward_stage, f"{STAGE}-heads-{count}-{seen_share:g}"
    if not config.train:
        raise UserError("heads on a shared trunk are trained, but reward.train is false.", where="arms")
    objective = HeadsConfig(members=count, seen_share=seen_share)
    fit = first_fit(context, shared.groups, name=name, key=context.key / STAGE, objective=objective)
    head, folder = context.key / "members" / name, context.run.checkpoint(name)
    model = fitted(context, fit, lambda: new_model(context, shared.policy, config, head, objective=objective), shared.policy, name).model
    if not (folder / SCALES_FILE).exists() and context.accelerator.is_main_process:
        prompts, replies = reference_samples(context)
        scales = [measure_scale(raw) for raw in HeadsReward(model).member_scores([p.text for p in prompts], replies)]
        write_text(folder / SCALES_FILE, json.dumps([asdict(s) for s in scales]) + "\n")
    context.accelerator.wait_for_everyone()
    return model, [Scale(**s) for s in json.loads((folder / SCALES_FILE).read_text(encoding="utf-8"))]


def average(shared: Shared, differ: Differ, count: int, trunks: Sequence[str] | None = None) -> LearnedReward:
    """One model with the mean of the members' weights; the facts of its stage hold the linear-mode check."""
    context, name = shared.context, f"{STAGE}-average-{differ}-{count}" + (f"-{_short(*trunks)}" if trunks else "")
    models = [m.model for m in members(shared, differ, count, trunks)]
    place = context.run.checkpoint(name)
    if context.run.done(name) is None:
        paths = [linear_path(models[0], m, shared.held_out) for m in models[1:]] if shared.held_out else []
        model = read_reward(context, context.run.checkpoint(STAGE))
        model.module.load_state_dict(average_states([m.module.state_dict() for m in models]))
        gap = max((p.gap for p in paths), default=None)
        keep_reward(context, name, model, place, {"members": count, "largest_fall": gap, "lines": [asdict(p) for p in paths]})
        if gap is not None:
            context.note(name, f"accuracy between members falls at most {max(gap, 0):.3f} below the line of their accuracies")
    return saved_reward(context, place, shared.policy)


def last_layer(shared: Shared, features: Features, references: Mapping[str, Sequence[Reply]], deviations: float) -> LastLayerReward:
    """A Bayesian head on the run's embeddings. Nothing in it is random, so a resumed run computes it again."""
    context = shared.context
    model: EmbeddingReward = new_embedding_reward(context.embedder, context.key / "last_layer", features=features)
    posterior = fit_posterior(model, pairs_of(shared.groups))
    reward = LastLayerReward(model, posterior, references, deviations)
    prompts, replies = reference_samples(context)
    reward.scale = measure_scale(reward.score([p.text for p in prompts], replies))
    context.embedder.flush()
    context.note("last_layer", f"prior precision {posterior.prior_precision:g}, log evidence {posterior.log_evidence:.1f}")
    return reward


def _short(*paths: str) -> str:
    """What tells paths apart, as part of a file's name."""
    return digest(paths)[:8]
