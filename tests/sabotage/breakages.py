"""The breakages: each is one plausible slip, and names the test files of which at least one must fail.

``old`` must occur exactly once in ``file``. A breakage that no longer applies is an error: move it along with the code.
"""

from __future__ import annotations

from typing import NamedTuple


class Breakage(NamedTuple):
    """One way to break the code."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


AUDITED = "tests/unit/test_audit_records.py"
AUDITED_MODELS = "tests/unit/test_cli_audit_models.py"
MANY = "tests/by_hand/test_many_samples.py"
CHECKPOINTS = "tests/by_hand/test_checkpoint_evaluations.py"
OPS = "tests/by_hand/test_ops.py"
OF_POLICIES = "tests/by_hand/test_policy_evaluation.py"
OF_REWARDS = "tests/by_hand/test_reward_evaluation.py"
VARIANTS = "tests/unit/test_pipeline_variants.py"
CURVES = "tests/by_hand/test_curves_alone.py"
LOGS = "tests/unit/test_curve_logs.py"
LOGGED = "tests/unit/test_cli_audit_logs.py"
CALLBACK = "tests/unit/test_callback.py"
REPORT_PAGES = "tests/unit/test_report_pages.py"
ISOLATION = "tests/by_hand/test_isolation.py"
ISOLATED = "tests/unit/test_cli_isolate.py"
HEADLINE = "tests/by_hand/test_headline.py"
FUSED = "tests/by_hand/test_fused.py"
LOGPROBS = "tests/by_hand/test_logprobs.py"
ONLINE = "tests/by_hand/test_online_more.py"
REINFORCED = "tests/by_hand/test_optimizer_reinforce.py"
GRPO = "tests/by_hand/test_optimizer_grpo.py"
P3O = "tests/by_hand/test_optimizer_p3o.py"
GRADIENTS = "tests/oracle/test_policy_gradients.py"
ONLINE_DPO = "tests/by_hand/test_optimizer_online_dpo.py"
RAFT = "tests/by_hand/test_optimizer_raft.py"
PPO = "tests/by_hand/test_optimizer_ppo.py"
CONSTRAINED = "tests/by_hand/test_optimizer_constrained.py"
ADVANTAGE = "tests/by_hand/test_optimizer_advantage_model_ppo.py"
FEEDBACK = "tests/by_hand/test_noisy_feedback.py"
TOKENS = "tests/by_hand/test_tokens_more.py"
LAYOUT = "tests/by_hand/test_layout.py"
REALIGN = "tests/by_hand/test_realign_more.py"
LOOP = "tests/by_hand/test_loop_more.py"
SHARDED = "tests/processes/test_sharded.py"
EXPLOITS = "tests/by_hand/test_exploits.py"
LOOP_AND_LEARN = "tests/by_hand/test_loop_and_learn.py"
OBJECTIVES = "tests/by_hand/test_objectives.py"
LEARNER = "tests/by_hand/test_reward_learner.py"
DENSE = "tests/by_hand/test_dense.py"
PRINCIPLES = "tests/by_hand/test_principles.py"
VERIFIABLE = "tests/unit/test_rewards_verifiable.py"
ENSEMBLES = "tests/by_hand/test_ensembles.py"
EXAMINATION = "tests/by_hand/test_reward_examination.py"
IMPRINT = "tests/by_hand/test_reward_imprint.py"
AGREEMENT = "tests/by_hand/test_agreement.py"
CEILING = "tests/by_hand/test_reward_ceiling.py"
PROBES = "tests/by_hand/test_reward_probes.py"
COPIES = "tests/by_hand/test_perturbations.py"
PROBED = "tests/unit/test_pipeline_probes.py"
CONTRACT = "tests/contract/test_learners.py"
SAMPLER = "tests/oracle/test_sampler.py"
PIPELINE = "tests/unit/test_pipeline_more.py"
STAGES = "tests/unit/test_pipeline_stages_more.py"
CONFIGURED = "tests/unit/test_pipeline_rewards.py"
REWARDS_CONFIG = "tests/unit/test_rewards_config.py"
ANYWHERE = "tests/unit/test_reward_anywhere.py"
CROSS = "tests/unit/test_cross_validation.py"
LINEAR = "tests/by_hand/test_linear_rewards.py"
PLANTED = "tests/planted/test_diagnoses.py::test_over_optimisation"
READING = "tests/unit/test_mismatch_reading.py"
VERDICT = "tests/unit/test_mismatch_verdict.py"
TRACKING = "tests/by_hand/test_mismatch_more.py"

TREES = "tests/oracle/test_tree.py"
DECODED = "tests/oracle/test_decoding.py"
DECODERS = "tests/contract/test_decoders.py"
SEARCHES = "tests/by_hand/test_decoding_parts.py"
SCORERS = "tests/by_hand/test_prefix_scorers.py"
DECODE_VERB = "tests/unit/test_cli_decode.py"
TILTING = "tests/by_hand/test_stats_tilting.py"
GAINS = "tests/by_hand/test_predicted_gains.py"
TEACHING = "tests/by_hand/test_teaching_quality.py"
LINKED = "tests/by_hand/test_reward_policy.py"
TRAINING_DATA = "tests/by_hand/test_training_data.py"

_SRC = "src/trueup/"

_OBJECTIVES = (
    ("bradley-terry-sign", "rewards/objectives/bradley_terry.py", "softplus(rejected - chosen)", "softplus(chosen - rejected)", (OPS,)),
    ("kl-rewarded", "ops/returns.py", "reward = -beta * keep(", "reward = beta * keep(", (OPS,)),
    ("score-on-the-token-before", "ops/returns.py", "== last_valid(mask)[:, None]", "== last_valid(mask)[:, None] - 1", (OPS,)),
    ("gae-trace-undiscounted", "ops/returns.py", "delta + gamma * lam * running", "delta + lam * running", (OPS,)),
    ("gae-value-undiscounted", "ops/returns.py", "reward[:, t] + gamma * following", "reward[:, t] + following", (OPS, ONLINE)),
    ("gae-looks-back", "ops/returns.py", "for t in reversed(range(steps)):", "for t in range(steps):", (OPS,)),
    ("advantage-not-centred", "ops/returns.py", "((x.double() - mean) /", "(x.double() /", (OPS,)),
    (
        "sample-variance",
        "ops/returns.py",
        "(totals[2] / totals[0] - mean**2)",
        "((totals[2] - totals[0] * mean**2) / (totals[0] - 1))",
        (OPS,),
    ),
    ("whitening-moves-the-mean", "ops/returns.py", "totals, epsilon) + mean.to(x.dtype), mask)", "totals, epsilon), mask)", (OPS,)),
    ("clip-inverted", "ops/policy_gradient.py", "torch.maximum(free, clamped)", "torch.minimum(free, clamped)", (OPS,)),
    ("value-clip-optimistic", "ops/policy_gradient.py", "0.5 * torch.maximum(", "0.5 * torch.minimum(", (OPS,)),
    (
        "leave-one-out-of-all",
        "ops/policy_gradient.py",
        "(grid.sum(1, keepdim=True) - grid) / (group - 1)",
        "grid.mean(1, keepdim=True)",
        (OPS,),
    ),
    ("reinforce-sign", "ops/policy_gradient.py", "return -advantage * logp", "return advantage * logp", (OPS,)),
    ("k3-inverted", "ops/kl.py", "(-log_ratio).exp() - 1 + log_ratio", "log_ratio.exp() - 1 - log_ratio", (OPS,)),
    ("beta-moves-away-from-target", "ops/kl.py", "kl_nats / target_nats - 1.0", "1.0 - kl_nats / target_nats", (OPS,)),
    (
        "exact-kl-arguments-swapped",
        "ops/logprobs.py",
        "zip(_rows(logits_p), _rows(logits_q)",
        "zip(_rows(logits_q), _rows(logits_p)",
        (LOGPROBS,),
    ),
    (
        "head-ignores-temperature",
        "ops/logprobs.py",
        "scale = (grad[part] / ctx.temperature)[:, None]",
        "scale = grad[part][:, None]",
        (LOGPROBS,),
    ),
)

_LEAN = (
    ("certainty-ignores-the-kept-map", "mismatch/reward_model/certainty.py", '"ece_mass" if stored is None else "ece_mass_stored"', '"ece_mass"', ("tests/by_hand/test_reward_examination.py",)),
    ("equal-kl-beyond-the-end", "mismatch/policy_evaluation/equal_budget.py", "begun = x[:, 0] <= budget", "begun = x[:, 0] <= np.inf", ("tests/by_hand/test_equal_budget.py",)),
    ("equal-kl-unpaired", "mismatch/policy_evaluation/equal_budget.py", "draws - base_draws", "draws - base_draws[::-1]", ("tests/by_hand/test_equal_budget.py",)),
    ("activations-kept", "models/llama.py", "again = trunk.gradient_checkpointing and", "again = trunk.training and trunk.config is None and", ("tests/by_hand/test_recomputed_activations.py",)),
    ("micro-batches-unsorted", "loop/train.py", "torch.stack(lengths).sum(0).argsort(stable=True) if lengths", "torch.arange(len(minibatch)) if lengths", ("tests/by_hand/test_micro_batches.py",)),
    ("trimmed-to-the-shortest", "data/tokens.py", "wide = max(int(self.mask.sum(1).max()), 1)", "wide = max(int(self.mask.sum(1).min()), 1)", ("tests/by_hand/test_tokens_more.py",)),
    ("nucleus-taken-for-the-policy", "optimizers/experience.py", "says_what_policy_says and config.top_p == 1", "says_what_policy_says", ("tests/by_hand/test_online_more.py",)),
    ("learnable-across-prompts", "mismatch/reward_model/learnable.py", "return np.asarray((filled - mean)[:, here])", "return np.asarray(filled[:, here])", ("tests/by_hand/test_learnable.py",)),
    ("learnable-without-penalty", "mismatch/reward_model/learnable.py", "return float(left.sum() / max(free - used, 1e-9) ** 2)", "return float(left.sum())", ("tests/by_hand/test_learnable.py",)),
    ("uneven-rows-taken-for-even", "models/layout.py", "return each if even else None", "return each or None", (LAYOUT,)),
    ("fused-silu-gradient", "ops/fused.py", "d_hidden.mul_(right), left, grad_input", "d_hidden.mul_(left), right, grad_input", (FUSED,)),
    ("fused-norm-gradient", "ops/fused.py", "return d_unit.addcmul_(unit, along, value=-1).mul_(inverse)", "return d_unit.mul_(inverse)", (FUSED,)),
    ("fused-norm-weight-gradient", "ops/fused.py", "d_weight = (d_all * plain).sum(0)", "d_weight = d_all.sum(0)", (FUSED,)),
    ("fused-turn-back", "ops/fused.py", "back = x.new_empty((min(ROWS, len(x)), len(all_three))), turn.conj().resolve_conj()", "back = x.new_empty((min(ROWS, len(x)), len(all_three))), turn", (FUSED,)),
    ("rotation-the-other-way", "ops/fused.py", "[a * cos - b * sin, b * cos + a * sin]", "[a * cos + b * sin, b * cos - a * sin]", (FUSED,)),
    ("reply-positions-start-at-0", "models/layout.py", "(width[inner, None] + times)[said]", "(0 * width[inner, None] + times)[said]", (LAYOUT,)),
    ("replies-see-the-future", "models/layout.py", "device=rows.device).tril()", "device=rows.device)", (LAYOUT,)),
    ("prompts-see-the-future", "models/llama.py", "is_causal=True", "is_causal=False", (LAYOUT,)),
    ("another-rows-prompt", "models/layout.py", "return prompts.index_select(0, self.which)", "return prompts.index_select(0, self.which.flip(0))", (LAYOUT,)),
    ("scores-in-the-order-of-parts", "models/llama.py", "return states.index_select(0, at.row.argsort())", "return states", (LAYOUT,)),
    ("waste-never-forgotten", "models/layout.py", "widths[i], longest[i], 0, 0, 0", "widths[i], longest[i], 0, prompts, needed", (LAYOUT,)),
)  # fmt: skip

_MASKS = (
    ("mask-polarity", "ops/masking.py", "torch.where(mask, x, torch.full_like(x, fill))", "torch.where(mask, torch.full_like(x, fill), x)", (OPS,)),
    ("padding-leaks-into-a-mean", "ops/masking.py", "Mean(keep(x, mask).sum().item(),", "Mean(x.sum().item(),", (OPS,)),
    ("mean-over-padding-too", "ops/masking.py", ".item(), float(mask.sum().item()))", ".item(), float(mask.numel()))", (OPS,)),
    ("mask-after-the-product", "ops/masking.py", "(weight * (x if mask is None else keep(x, mask))).sum()", "(weight * x).sum()", (OPS,)),
    ("score-read-before-the-end", "models/layout.py", "start + prompt_tokens - 1 + step.cumsum(0)", "start + prompt_tokens - 2 + step.cumsum(0)", (TOKENS, LAYOUT)),
    ("eos-not-counted", "decoding/sample.py", "mask[held, t] = live\n", "mask[held, t] = live & (tokens != eos_id)\n", (SAMPLER,)),
    ("finished-forgotten-in-encoding", "data/tokens.py", "ids + [eos] * reply.finished", "ids", (TOKENS,)),
    ("finished-forgotten-in-decoding", "data/tokens.py", "Reply(text=text, finished=end)", "Reply(text=text)", (TOKENS,)),
    ("positions-count-padding", "data/tokens.py", "(self.attention().cumsum(1) - 1).clamp(min=0)", "torch.ones_like(self.tokens).cumsum(1) - 1", (TOKENS,)),
    ("prompts-padded-on-the-right", "data/tokens.py", 'pad_rows(prompt_ids, pad_id, "left")', 'pad_rows(prompt_ids, pad_id, "right")', (TOKENS,)),
    ("prompts-cut-on-the-right", "data/tokens.py", "(ids[-tail:] if tail > 0 else [])", "(ids[keep_front:][:tail] if tail > 0 else [])", (TOKENS,)),
    ("pad-may-be-eos", "models/reward.py", "if reads_eos and tokenizer.pad_token_id == tokenizer.eos_token_id:", "if False:", (TOKENS,)),
    ("dropout-stays-on", "models/loading.py", "module.p = 0.0", "module.p = module.p", (TOKENS,)),
    ("reference-follows-the-policy", "models/policy.py", "model = copy.deepcopy(policy.model)\n", "model = policy.model\n", (TOKENS,)),
    ("adapter-stays-on-in-the-reference", "models/policy.py", "disable_adapter() if self.adapter else", "disable_adapter() if False else", (TOKENS,)),
)  # fmt: skip

_REDUCTIONS = (
    (
        "token-mean-is-a-sequence-mean",
        "ops/weights.py",
        "return mask.float() / max(tokens, 1.0)",
        "return mask.float() / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)",
        (OPS, ONLINE),
    ),
    (
        "sequence-mean-is-a-token-mean",
        "ops/weights.py",
        "return mask.float() / mask.sum(1, keepdim=True).clamp(min=1) / max(rows, 1.0)",
        "return mask.float() / mask.sum()",
        (OPS,),
    ),
    ("ppo-counts-rows", "optimizers/actor_critic.py", "tokens, shown = totals[1].item(), totals[2].item()", "tokens, shown = totals[0].item(), totals[2].item()", (ONLINE,)),
    ("micro-batches-share-the-first-weights", "loop/train.py", "minibatch.take(part), weight[part])", "minibatch.take(part), weight[: len(part)])", (LOOP,)),
    ("gradients-of-the-last-micro-batch", "loop/train.py", "in _micro_batches(minibatch, config.micro_rows or len(minibatch)):", "in _micro_batches(minibatch, config.micro_rows or len(minibatch))[-1:]:", (LOOP,)),
    ("metrics-of-the-last-minibatch", "loop/train.py", "means[name] += mean", "means[name] = mean", (LOOP, LOOP_AND_LEARN)),
    ("one-iteration-only", "loop/train.py", "for iteration in range(config.num_iterations):", "for iteration in range(1):", (LOOP,)),
    ("the-same-order-every-iteration", "loop/train.py", "key / index / iteration, accelerator)", "key / index, accelerator)", (LOOP,)),
    ("bad-loss-still-steps", "loop/train.py", "    if math.isfinite(means", "    if True or math.isfinite(means", (LOOP_AND_LEARN,)),
    ("epochs-draw-with-replacement", "core/rng.py", "(key / int(e)).permutation(n) for e", "(key / int(e)).generator().integers(0, n, n) for e", (LOOP_AND_LEARN,)),
    ("every-epoch-alike", "core/rng.py", "{int(e): (key / int(e)).permutation(n)", "{int(e): key.permutation(n)", (LOOP_AND_LEARN,)),
)  # fmt: skip

_SAMPLING = (
    ("scored-at-another-temperature", "optimizers/experience.py", "parts.policy.logprobs(seq, config.temperature)", "parts.policy.logprobs(seq)", (ONLINE,)),
    ("reference-at-another-temperature", "optimizers/experience.py", "parts.reference.logprobs(seq, config.temperature)", "parts.reference.logprobs(seq)", (ONLINE,)),
    ("loss-at-another-temperature", "optimizers/whole_reply.py", "logprobs(e.sequences, config.temperature)", "logprobs(e.sequences)", (ONLINE,)),
    ("even-chi2-only", "ops/kl.py", "log_ratio.exp() - 2 + (-log_ratio).exp()", "log_ratio.exp() - 1", (REINFORCED,)),
    ("batch-mean-with-itself", "optimizers/reinforce.py", "(total - reward) / max(rows - 1, 1)", "total / rows + 0 * reward", (REINFORCED,)),
    ("average-of-this-batch", "optimizers/reinforce.py", "torch.full_like(reward, self.average)", "torch.full_like(reward, total / rows)", (REINFORCED,)),
    ("greedy-reply-without-its-penalty", "optimizers/remax.py", "baseline = baseline - cfg.beta", "baseline = baseline - 0 * cfg.beta", (REINFORCED,)),
    ("k3-turned-round", "optimizers/whole_reply.py", "[config.kl_penalty](log_ratio)", "[config.kl_penalty](-log_ratio)", (REINFORCED,)),
    ("one-clip-for-both-sides", "ops/policy_gradient.py", "1 + (clip if clip_high is None else clip_high)", "1 + clip", (GRPO,)),
    ("population-deviation", "ops/policy_gradient.py", "grid.std(1, keepdim=True)", "grid.std(1, keepdim=True, correction=0)", (GRPO,)),
    ("constant-is-the-mean", "optimizers/grpo.py", "(rows * self.config.max_completion_length)", "totals[1].item()", (GRPO,)),
    ("sibling-ratio-forgotten", "ops/policy_gradient.py", "* ratio.detach().flip(1)", "", (P3O,)),
    ("joint-clip-of-one-reply", "ops/policy_gradient.py", "(logp_old[:, 0] - logp_old[:, 1])", "logp_old[:, 0]", (P3O, GRADIENTS)),
    ("the-worse-reply-is-chosen", "optimizers/online_dpo.py", "(judged[:, 1] > judged[:, 0])", "(judged[:, 1] < judged[:, 0])", (ONLINE_DPO,)),
    ("ties-are-orders", "optimizers/online_dpo.py", " * experience.untied", "", (ONLINE_DPO,)),
    ("share-rounded-down", "ops/selection.py", "math.ceil(share", "math.floor(share", (RAFT,)),
    ("the-last-not-the-best", "optimizers/raft.py", "if score > self.best", "if True or score > self.best", (RAFT,)),
    ("policy-distilled-into-itself", "optimizers/best_of_n_distill.py", "self.rollout = reference_rollout(parts)", "self.rollout = parts.rollout", (RAFT,)),
    ("rloo-ignores-the-reference", "optimizers/whole_reply.py", "return score - config.beta * gap\n", "return score\n", (ONLINE,)),
    ("importance-weight-forgotten", "optimizers/whole_reply.py", "totals[0].item()) * experience.importance", "totals[0].item())", (ONLINE,)),
    ("importance-weight-inverted", "optimizers/experience.py", "gap.exp().clamp(max", "(-gap).exp().clamp(max", (ONLINE,)),
    ("ending-is-punished", "optimizers/experience.py", "(~samples.finished).float()", "samples.finished.float()", (ONLINE,)),
    ("prompts-and-replies-crossed", "optimizers/experience.py", "(p for p in batch.prompt for _ in range(k))", "(p for _ in range(k) for p in batch.prompt)", (ONLINE,)),
    ("targets-from-whitened-advantages", "optimizers/ppo.py", "target=advantage + value", "target=standardise(advantage, mask, moments(advantage, mask)) + value", (ONLINE,)),
    ("stale-rollout-weights", "optimizers/experience.py", "    parts.rollout.refresh()\n", "", (ONLINE,)),
    ("stream-of-the-batch-position", "decoding/rollout.py", "range(first_row, first_row + len(prompt_ids) * num_samples)", "range(len(prompt_ids) * num_samples)", (SAMPLER,)),
    ("global-row-forgotten", "optimizers/experience.py", "first_row=int(batch.row[0]) * k", "first_row=0", (ONLINE,)),
    ("uniforms-of-the-position", "core/rng.py", "np.array([0, 0, row, 0]", "np.array([0, 0, i, 0]", (LOOP_AND_LEARN,)),
    ("compaction-misaligned", "decoding/sample.py", "held, tokens, live = held[live], tokens[live], live[live]", "held, tokens, live = held[:remaining], tokens[live], live[live]", (SAMPLER,)),
    ("cache-rows-dropped-wrongly", "decoding/sample.py", "decoder.keep(live.nonzero().squeeze(1))", "decoder.keep(live.flip(0).nonzero().squeeze(1))", (SAMPLER,)),
    ("top-p-keeps-the-tail", "decoding/sample.py", "before < top_p)", "before >= top_p)", (SAMPLER,)),
    ("temperature-multiplies", "decoding/sample.py", "logits / temperature).softmax(-1)", "logits * temperature).softmax(-1)", (SAMPLER,)),
)  # fmt: skip

_REALIGNMENT = (
    ("least-similar-selected", "realign/select/similar.py", "scores if self.invert else -scores", "-scores if self.invert else scores", (REALIGN,)),
    ("random-refit-of-another-size", "realign/select/random.py", "[: self.size])", "[: self.size // 2])", (REALIGN,)),
    ("replay-from-the-selected", "realign/frft.py", "np.setdiff1d(np.arange(len(pool)), rows)", "np.asarray(rows)", (REALIGN,)),
    ("unfinished-samples-compared-with", "realign/frft.py", "if not undesirable(s, config.drop)", "if undesirable(s, config.drop)", (REALIGN,)),
    ("refit-without-limit", "realign/trigger.py", "refits >= config.max_refits:", "refits > config.max_refits:", (REALIGN,)),
    (
        "scale-measured-on-the-training-pairs",
        "pipeline/reward.py",
        "    prompts, replies = reference_samples(context)\n",
        "    pairs = context.world.preferences(\"train\")\n    prompts, replies = [p.prompt for p in pairs], [p.chosen for p in pairs]\n",
        (PIPELINE,),
    ),
    ("scale-keeps-the-mean", "rewards/learned.py", "shift=mean - gain * raw.double().mean().item()", "shift=mean", (REALIGN,)),
    ("refit-never-in-force", "pipeline/arm.py", "        arm.in_force.reward = sources.build(arm.config.reward)\n", "        sources.build(arm.config.reward)\n", (PIPELINE,)),
    ("proxy-current-is-the-first", "pipeline/measure.py", "current=_scaled(rewards, current, raw)", "current=_scaled(rewards, first, raw)", (PIPELINE,)),
    ("measured-on-training-prompts", "pipeline/probe.py", 'context.world.prompts("test")', 'context.world.prompts("train")', (PIPELINE,)),
    ("kl-of-reference-to-policy", "pipeline/measure.py", "exact_kl(ours, theirs, temperature)", "exact_kl(theirs, ours, temperature)", (PIPELINE,)),
    ("clean-labels-reversed", "pipeline/reward.py", "p if a >= b else swapped(p)", "p if a <= b else swapped(p)", (PIPELINE,)),
    ("gold-arm-trains-on-the-proxy", "rewards/kinds/gold.py", "sources.gold()", "sources.model()", (PIPELINE,)),
)  # fmt: skip

_REWARD_MODELS = (
    ("ties-dropped-in-silence", "rewards/objectives/protocol.py", 'return both if ties == "half" else both &', "return both &", (OBJECTIVES,)),
    ("absent-replies-compared", "rewards/objectives/protocol.py", "judged.present[:, i] & judged.present[:, j]", "judged.present[:, i] | judged.present[:, j]", (OBJECTIVES,)),
    ("pairs-summed-not-averaged", "rewards/objectives/protocol.py", ".sum(1) / used.sum(1).clamp(min=1)", ".sum(1)", (OBJECTIVES,)),
    ("margin-subtracted", "rewards/objectives/margin.py", "F.softplus(margin - (chosen - rejected))", "F.softplus(-margin - (chosen - rejected))", (OBJECTIVES,)),
    ("smoothing-unbalanced", "rewards/objectives/label_smoothing.py", "+ wrong * bradley_terry_loss(rejected, chosen)", "- wrong * bradley_terry_loss(rejected, chosen)", (OBJECTIVES,)),
    ("flips-not-rescaled", "rewards/objectives/flip_noise.py", " / (1 - 2 * flip)", "", (OBJECTIVES,)),
    ("ranking-upside-down", "rewards/objectives/plackett_luce.py", "rating[:, None, :] <= rating[:, :, None]", "rating[:, None, :] >= rating[:, :, None]", (OBJECTIVES,)),
    ("worst-is-the-pick", "rewards/objectives/best_of_k.py", "best == best.amax(1, keepdim=True)", "best == rating.amin(1, keepdim=True)", (OBJECTIVES,)),
    ("variance-ignored", "rewards/objectives/gaussian.py", "(1 + math.pi * spread / 8).sqrt()", "(1 + 0 * spread).sqrt()", (OBJECTIVES,)),
    ("length-rewarded-in-quality", "rewards/objectives/odin.py", "sign * grad_quality, -grad_length", "-sign * grad_quality, -grad_length", (OBJECTIVES,)),
    ("correlation-of-the-micro-batch", "ops/correlation.py", "(n * vx**0.5)", "(len(x) * vx**0.5)", (OBJECTIVES, CONTRACT)),
    ("barrier-on-the-wrong-side", "rewards/objectives/advantage_model.py", "barrier(a, self.bound) + barrier(-b, self.bound)", "barrier(-a, self.bound) + barrier(b, self.bound)", (OBJECTIVES,)),
    ("demonstrations-and-samples-exchanged", "rewards/objectives/adversarial.py", "(demonstration, -1.0), (~demonstration, 1.0)", "(demonstration, 1.0), (~demonstration, -1.0)", (OBJECTIVES,)),
    ("regret-of-the-start-only", "rewards/objectives/regret.py", ".sum(1) + value_end)", ".sum(1))", (OBJECTIVES,)),
    ("tied-groups-counted", "rewards/fit.py", "self.objective.counted(experience.judged).sum().double()", "torch.tensor(float(len(experience))).double()", (LEARNER,)),
    ("coupling-left-out", "rewards/fit.py", "value = value + (weight[:, 1:] * output.flatten(1)).sum()", "pass", (LEARNER,)),
    ("regulariser-once-a-micro-batch", "rewards/fit.py", "term * base.sum()", "term", (LEARNER,)),
    ("first-number-is-the-answer", "rewards/verifiable/numeric_answer.py", "_value(found[-1]) if found", "_value(found[0]) if found", (VERIFIABLE,)),
    ("last-rule-decides", "rewards/combine.py", "for check, value in reversed(self.rules):", "for check, value in self.rules:", (VERIFIABLE,)),
    ("sigmoid-of-the-reference", "rewards/shaping.py", "torch.sigmoid(x - self._reference(p))", "torch.sigmoid(self._reference(p) - x)", (VERIFIABLE,)),
    ("disagreement-rewarded", "ops/ensembles.py", "scores.mean(0) - coefficient * scores.var(0, correction=0)", "scores.mean(0) + coefficient * scores.var(0, correction=0)", (ENSEMBLES,)),
    ("best-case-ensemble", "ops/ensembles.py", "return scores.amin(0)", "return scores.amax(0)", (ENSEMBLES,)),
    ("every-head-sees-all", "rewards/objectives/heads.py", "(torch.stack(losses, 1) * seen).sum(1)", "torch.stack(losses, 1).sum(1)", (ENSEMBLES,)),
    ("average-ignores-the-weights", "models/merge.py", "total += share * state[name].double()", "total += state[name].double() / len(states)", (ENSEMBLES,)),
    ("optimism-where-unsure", "stats/last_layer.py", "np.asarray(mean - deviations * np.sqrt(variance))", "np.asarray(mean + deviations * np.sqrt(variance))", (ENSEMBLES,)),
    ("uncertainty-of-scores-not-differences", "rewards/last_layer.py", "vectors(self.model, prompts, replies) - np.stack([self._reference(p) for p in prompts])", "vectors(self.model, prompts, replies)", (ENSEMBLES,)),
    ("rating-ties-are-wins", "mismatch/reward_model/scores.py", "share=np.where(tied, 0.0, 1.0 /", "share=np.where(tied, 1.0, 1.0 /", (EXAMINATION,)),
    ("pairs-not-items-count", "mismatch/reward_model/scores.py", "1.0 / np.maximum(untied[item], 1)", "1.0 / np.maximum(np.minimum(untied[item], 1), 1)", (EXAMINATION,)),
    ("best-domain-is-the-worst", "mismatch/reward_model/accuracy.py", '("worst_domain", np.min)', '("worst_domain", np.max)', (EXAMINATION,)),
    ("easy-is-hard", "mismatch/reward_model/style.py", '"style_easy": first > second, "style_normal": first == second, "style_hard": first < second', '"style_easy": first < second, "style_normal": first == second, "style_hard": first > second', (EXAMINATION,)),
    ("length-across-prompts", "mismatch/reward_model/length.py", 'known.groupby("item")[list(_COLUMNS)].transform("mean")', "known[list(_COLUMNS)].mean()", (EXAMINATION,)),
    ("weakness-taken-for-bias", "mismatch/reward_model/imprint.py", "paid, owed = self.imprint.value or 0.0, -(self.debt.value or 0.0)", "paid, owed = self.imprint.value or 0.0, self.debt.value or 0.0", (IMPRINT,)),
    ("labels-that-favour-length-ignored", "mismatch/reward_model/length.py", "favour.low < 0.5 - BALANCED or favour.high > 0.5 + BALANCED", "favour.low < 0.0 or favour.high > 1.0", (IMPRINT,)),
    ("slope-of-the-domain-alone", "mismatch/reward_model/accuracy.py", "value = own / others - BROKEN", "value = own - BROKEN", (IMPRINT,)),
    ("clusters-are-rows", "stats/logistic.py", "np.add.at(scores, codes, x * residual[:, None])", "np.add.at(scores, np.arange(len(codes)) % clusters, x * residual[:, None])", (IMPRINT,)),
    ("temperature-judged-on-its-own-half", "mismatch/reward_model/certainty.py", "fit_calibrator(pairs.delta[~side], outcome[~side]", "fit_calibrator(pairs.delta[side], outcome[side]", (EXAMINATION,)),
    ("agreement-with-oneself", "stats/agreement.py", "(counts * (counts - 1)).sum(1), total * (total - 1)", "(counts * counts).sum(1), total * total", (AGREEMENT,)),
    ("ceiling-is-the-agreement", "stats/ceilings.py", "(1 + np.sqrt(np.clip(np.asarray(second, dtype=float), 0, 1))) / 2", "(1 + np.clip(np.asarray(second, dtype=float), 0, 1)) / 2", (AGREEMENT,)),
)  # fmt: skip

_STAGES = (
    ("sampled-preferences-reversed", "pipeline/preferences.py", "(first, second) if preference > 0.5", "(first, second) if preference < 0.5", (STAGES,)),
    ("fresh-labels-agree-on-both-sides", "pipeline/probe.py", "preference=1 - preference)", "preference=preference)", (STAGES,)),
    ("judged-on-what-it-was-fitted-to", "pipeline/cross_validate.py", "in rest_of(rows, len(pairs))]", "in range(len(pairs))]", (CROSS,)),
    ("seen-openings-asked-about", "pipeline/cross_validate.py", "if group not in seen", "if group", (CROSS,)),
    ("penalty-chosen-on-seen-pairs", "stats/ridge.py", "rest = np.setdiff1d(np.arange(n), rows)", "rest = np.arange(n)", (LINEAR,)),
    ("inner-folds-deal-rows", "rewards/linear_fit.py", "folds(groups_of(pairs), inner_folds, key)", "folds([p.id for p in pairs], inner_folds, key)", (LINEAR,)),
    ("a-member-counts-against-itself", "stats/stacking.py", "bounds=[(0, None)]", "bounds=[(None, None)]", (LINEAR,)),
    ("every-refit-from-the-first-model", "pipeline/arm.py", 'start = arm.first if config.start_from == "first" else arm.current', "start = arm.first", (STAGES,)),
    ("margins-reversed", "pipeline/refit.py", "return (reward.raw(prompts, [p.chosen for p in pairs]) - reward.raw(prompts, [p.rejected for p in pairs]))", "return (reward.raw(prompts, [p.rejected for p in pairs]) - reward.raw(prompts, [p.chosen for p in pairs]))", (STAGES,)),
    ("trigger-forgets-the-last-refit", "realign/trigger.py", "kl_nats - kl_at_last_refit_nats >=", "kl_nats >=", (REALIGN,)),
    ("learning-rate-never-changes", "loop/train.py", 'group["lr"] = learning_rate_at(config, index, steps)', 'group["lr"] = config.learning_rate', (LOOP,)),
    ("annotators-prefer-the-worse", "sandbox/desk/annotators.py", "math.tanh(felt", "math.tanh(-felt", ("tests/unit/test_sandbox_helpdesk.py",)),
    ("choice-judged-on-the-choosing-half", "mismatch/decision.py", "enumerate((halves, halves[::-1]))", "enumerate(((h, h) for h in halves))", (TRACKING,)),
)  # fmt: skip

_RESUME = (
    ("resume-forgets-the-optimizer", "loop/state.py", "        if slots:\n", "        if False:\n", (CONTRACT,)),
    ("resume-forgets-the-learner", "loop/train.py", "        learner.load_state_dict(start.learner)\n", "", (CONTRACT, LOOP)),
    ("resume-starts-over", "loop/train.py", "range(start.step if start else 0,", "range(0,", (CONTRACT,)),
    ("metrics-logged-twice", "store/run.py", 'and r["step"] >= step)', 'and r["step"] > step)', ("tests/unit/test_store_run.py",)),
    ("write-in-place", "store/atomic.py", "            yield partial\n            _sync(partial)\n            os.replace(partial, path)\n", "            yield path\n", ("tests/unit/test_store_atomic.py",)),
    ("old-folder-deleted-first", "store/atomic.py", "                os.rename(path, previous)\n", "                shutil.rmtree(path)\n", ("tests/unit/test_store_atomic.py",)),
    ("damaged-tail-kept", "store/lines.py", 'if not line.endswith(b"\\n"):\n                    return', "if not line:\n                    return", ("tests/unit/test_store_run.py",)),
)  # fmt: skip

_NUMBERS = (
    ("absent-becomes-0", "store/columns.py", "values = np.full(len(column), np.nan)", "values = np.zeros(len(column))", ("tests/unit/test_store_records.py",)),
    ("null-scores-kept-as-values", "core/record.py", ".items() if v is not None}", ".items()}", ("tests/unit/test_record_more.py",)),
    ("empty-mean-is-0", "learn/table.py", "self.total / self.count if self.count else None", "self.total / self.count if self.count else 0.0", (LOOP_AND_LEARN,)),
    ("rows-resampled-not-clusters", "stats/bootstrap.py", "sums, counts = cluster_sums(values, clusters)", "sums, counts = cluster_sums(values, np.arange(np.size(values)))", ("tests/by_hand/test_stats_bootstrap.py",)),
    ("interval-not-widened", "stats/bootstrap.py", "stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf((1 - level) / 2, units - 1))", "(1 - level) / 2", ("tests/by_hand/test_stats_bootstrap.py",)),
    ("unpaired-where-paired", "stats/bootstrap.py", "common = sides[0].index.intersection(sides[1].index)", "common = sides[0].index.union(sides[1].index)", ("tests/by_hand/test_stats_bootstrap.py",)),
    ("spearman-is-pearson", "stats/rank.py", "return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))", "return pearson(x, y)", ("tests/oracle/test_stats_estimators.py",)),
    ("kendall-tau-a", "stats/rank.py", "untied = x_pairs * y_pairs", "untied = np.full(x_pairs.shape, (a.shape[-1] * (a.shape[-1] - 1) / 2) ** 2)", ("tests/by_hand/test_stats_rank.py",)),
    ("kendall-and-spearman-exchanged", "mismatch/policy_evaluation/tracking.py", '"spearman": rank.spearman, "kendall": rank.kendall', '"spearman": rank.kendall, "kendall": rank.spearman', (TRACKING,)),
    ("gao-peak-height", "stats/curves.py", "alpha**2 / (4 * beta)", "alpha**2 / (2 * beta)", ("tests/by_hand/test_stats_curves.py",)),
    ("gao-rl-peak-place", "stats/curves.py", "exponent = alpha / beta - 1", "exponent = alpha / beta", ("tests/by_hand/test_stats_curves.py",)),
    ("calibration-bins-shifted", "stats/calibration.py", "lower = half / bins", "lower = half / (bins + 1)", ("tests/oracle/test_stats_estimators.py",)),
    ("calibration-in-one-order", "stats/calibration.py", "np.concatenate([d, -d]), np.concatenate([y, 1 - y])", "d, y", ("tests/by_hand/test_stats_calibration.py",)),
    ("best-of-n-with-replacement", "stats/best_of_n.py", "_log_choose(rank[able] - 1, n - 1)", "_log_choose(rank[able], n)", ("tests/by_hand/test_stats_best_of_n.py",)),
)  # fmt: skip

_EVALUATIONS = (
    ("checkpoints-all-independent", "stats/serial.py", "np.minimum(n * (1 - both) / (1 + both), float(n))", "np.full(np.shape(both), float(n))", ("tests/by_hand/test_stats_serial.py",)),
    ("band-of-the-usual-deviation", "stats/simultaneous.py", ".max(axis=1)", ".mean(axis=1)", ("tests/by_hand/test_stats_serial.py",)),
    ("small-losses-alarm", "mismatch/policy_evaluation/alignment_tax.py", "-change >= settings.min_loss * abs(first)", "-change >= 0", (OF_POLICIES,)),
    ("bought-refusals-alarm", "mismatch/policy_evaluation/refusal_balance.py", "risen and not traded and", "risen and", (OF_POLICIES,)),
    ("replies-compared-with-themselves", "mismatch/policy_evaluation/diversity.py", ".ravel() - own, count * (count - 1.0)", ".ravel(), count * count", (OF_POLICIES,)),
    ("a-demonstration-counts-once", "mismatch/policy_evaluation/next_token_loss.py", "_tokens=columns[1][known]", "_tokens=1.0", (OF_POLICIES,)),
    ("better-than-plain-alarms", "mismatch/policy_evaluation/sensitivity.py", " and high[count + i] < 0", "", (OF_POLICIES,)),
    ("parts-are-beginnings", "mismatch/policy_evaluation/positions.py", "np.diff(level, axis=0, prepend=0.0)", "level", (OF_POLICIES,)),
    ("gold-that-turned-is-not-asked", "mismatch/reward_evaluation/consistency.py", "(r.gold is None or float(np.quantile(draws, 0.05)) > 0 < value)", "True", (OF_REWARDS,)),
    ("implicit-reward-upside-down", "mismatch/reward_evaluation/implicit_reward.py", "columns[0] - columns[1]", "columns[1] - columns[0]", (OF_REWARDS,)),
    ("seen-labels-pass", "mismatch/reward_evaluation/ceiling_use.py", "above.low is not None and above.low > 0", "above.low is None", (OF_REWARDS,)),
    ("growth-in-counts", "mismatch/reward_evaluation/style.py", "sums.reshape(-1, 2) / spread", "sums.reshape(-1, 2)", (OF_REWARDS,)),
    ("outcome-without-the-start", "mismatch/reward_evaluation/rank_transfer.py", "float(curve[-1] - curve[0])", "float(curve[-1])", (OF_REWARDS,)),
    ("tricks-scored-as-asked", "pipeline/variants.py", "scorable=not tricked", "scorable=True", (VARIANTS,)),
    ("cut-from-the-front", "pipeline/variants.py", "body.cumsum(1) <= body.new_tensor", "body.cumsum(1) > body.new_tensor", (VARIANTS,)),
    ("greedy-is-drawn", "pipeline/variants.py", "temperature=0.0, top_p=1.0", "temperature=1.0, top_p=1.0", (VARIANTS,)),
)  # fmt: skip

_DIAGNOSES = (
    ("alarm-without-an-interval", "mismatch/reward_policy/over_optimisation.py", "        drop.low is not None\n        and drop.low > 0\n", "        drop.value is not None\n        and drop.value > 0\n", (PLANTED,)),
    ("peak-judged-where-it-was-chosen", "mismatch/reward_policy/over_optimisation.py", "zip(halves, reversed(peaks), strict=True)", "zip(halves, peaks, strict=True)", (TRACKING,)),
    ("accuracy-of-the-loser", "mismatch/pairs.py", "(np.sign(score_difference) * (2 * outcome - 1) + 1) / 2", "(np.sign(score_difference) * (1 - 2 * outcome) + 1) / 2", (READING,)),
    ("training-pairs-judged", "mismatch/pairs.py", '(records["split"] != "train")', '(records["split"] == "train")', (READING,)),
    ("proxy-decides-the-checkpoint", "mismatch/decision.py", 'gold = panel.column_cells("gold")', 'gold = panel.column_cells("proxy_fixed")', (VERDICT,)),
    ("better-and-worse-exchanged", "mismatch/reward_policy/realignment.py", "if decisive.high < 0:", "if decisive.low > 0:", (VERDICT,)),
    ("other-splits-in-the-panel", "mismatch/panel.py", '(records["arm"] == arm) & (records["split"] == split)', '(records["arm"] == arm)', (TRACKING,)),
)  # fmt: skip

_REWARD_POLICY = (
    ("fall-from-one-point-only", "stats/falls.py", "low, high = band(size, draws", "low, high = band(size[:1].repeat(len(size)), draws", (LINKED,)),
    ("tied-replies-in-a-row", "stats/best_of_n.py", "new[:, 1:] = chooses[:, 1:] != chooses[:, :-1]", "new[:, 1:] = True", (LINKED,)),
    ("small-falls-are-harm", "mismatch/harm.py", "found.shown and found.size >= min_share * gain", "found.shown", (LINKED,)),
    ("harm-without-its-interval", "mismatch/harm.py", "shown=found.shown and", "shown=found.size > 0 and", (LINKED,)),
    ("tied-scores-are-right", "mismatch/grids.py", "right = correct(score[:, lag:] - score[:, :-lag]", "right = correct(score[:, lag:] - score[:, :-lag] + 1e-9", (LINKED,)),
    ("promise-without-an-arcsine", "mismatch/reward_policy/tail_mismatch.py", "rho = correlation_from_accuracy(accuracy)[..., None]", "rho = (2 * accuracy - 1)[..., None]", (LINKED,)),
    ("tails-of-gold-by-gold", "mismatch/reward_policy/tail_mismatch.py", "best_of_n_rows(chooses, value, ns)", "best_of_n_rows(value, chooses, ns)", (LINKED,)),
    ("slopes-between-prompts-too", "mismatch/reward_policy/goodhart.py", "values - mean[panel.prompt, panel.step]", "values - np.nanmean(values)", ("tests/planted/test_reward_policy.py::test_goodhart",)),
    ("bottom-bin-for-the-top", "mismatch/reward_policy/goodhart.py", "(x >= np.quantile(x[here], 1 - 1 / bins))", "(x <= np.quantile(x[here], 1 / bins))", (LINKED,)),
    ("every-slope-alone", "mismatch/reward_policy/goodhart.py", "(high < 0) & (values", "(values < 0) & (values", ("tests/planted/test_reward_policy.py::test_goodhart",)),
    ("doubt-without-its-square", "mismatch/reward_policy/signal.py", "disagreement**2, np.nan", "disagreement, np.nan", (LINKED,)),
    ("outliers-where-all-agree", "mismatch/reward_policy/signal.py", "(np.arange(len(sizes)) < len(sizes) - 1)", "(np.arange(len(sizes)) >= 0)", (LINKED,)),
    ("deaf-though-it-rises", "mismatch/reward_policy/signal.py", "settings.max_flat) and not _rose(panel, weights)", "settings.max_flat)", (LINKED,)),
    ("near-to-ones-own-prompt", "mismatch/reward_policy/coverage.py", "among[prompt[:, None] == prompt[None, :]] = -np.inf", "among[np.eye(len(prompt), dtype=bool)] = -np.inf", (LINKED,)),
    ("ratios-upside-down", "mismatch/reward_policy/coverage.py", "gap = policy - reference", "gap = reference - policy", (LINKED,)),
    ("prompts-by-chance", "mismatch/reward_policy/coverage.py", "order[np.argsort(turn, kind=\"stable\")[:most]]", "order[:most]", (LINKED,)),
    ("few-replies-are-enough", "mismatch/reward_policy/predicted_regret.py", "(found[3].value or 0) >= settings.min_effective", "True", (LINKED,)),
    ("regret-without-its-optimum", "mismatch/reward_policy/predicted_regret.py", '"regret": (best - gain, "score")', '"regret": (best, "score")', (LINKED,)),
    ("losers-win", "mismatch/reward_policy/predicted_regret.py", '"second": number[second]', '"second": number[first], "was": number[second]', (LINKED,)),
    ("all-pairs-are-near", "mismatch/reward_policy/shift_by_kl.py", "near = place == 0", "near = place >= 0", (LINKED,)),
    ("fit-without-its-truth", "mismatch/reward_policy/shift_by_kl.py", "over(dt**2, dd * tt)", "over(dt**2, dd * dd)", (LINKED,)),
    ("degree-with-signs", "mismatch/reward_policy/laws.py", "np.abs(upto(a, b, turn)) + np.abs(", "np.abs(", (LINKED,)),
    ("area-over-sqrt-kl", "mismatch/reward_policy/laws.py", "nats = d[order] ** 2", "nats = d[order]", (LINKED,)),
    ("laws-exchanged", "mismatch/reward_policy/laws.py", '"aic_bon_minus_rl", bon - rl, bon_draws - rl_draws', '"aic_bon_minus_rl", rl - bon, rl_draws - bon_draws', (LINKED,)),
    ("shift-alarms-without-harm", "mismatch/reward_policy/distribution_shift.py", "dropped and not harm.refuted", "dropped", ("tests/planted/test_diagnoses.py::test_distribution_shift",)),
)  # fmt: skip

_EDGES = (
    ("html-not-escaped", "report/page.py", "autoescape=True", "autoescape=False", ("tests/unit/test_report_write.py",)),
    ("nan-in-the-report", "report/assemble.py", "return value if math.isfinite(value) else None", "return value", ("tests/unit/test_report_parts.py",)),
    ("nan-in-the-metrics", "store/lines.py", "if isinstance(value, float) and not math.isfinite(value):", "if False:", ("tests/unit/test_store_run.py",)),
    ("unknown-keys-accepted", "core/config.py", 'extra="forbid"', 'extra="ignore"', ("tests/unit/test_config_more.py",)),
    ("user-errors-exit-as-bugs", "cli/main.py", "            return 2\n", "            return 1\n", ("tests/unit/test_cli_main.py::test_a_user_error_is_one_message_and_status_2",)),
    ("help-imports-torch", "cli/run.py", "from __future__ import annotations\n", "from __future__ import annotations\n\nimport torch  # noqa: F401\n", ("tests/unit/test_cli_main.py::test_help_is_fast_and_imports_nothing_heavy",)),
    ("paths-lead-out-of-the-run", "store/run.py", "any(p in (\"..\", \".\") for p in parts)", "False", ("tests/unit/test_store_run.py",)),
    ("groups-cross-folds", "data/splits.py", "    for rows in members:\n        min(found, key=len).extend(rows)\n", "    for row in (r for rows in members for r in rows):\n        min(found, key=len).append(row)\n", ("tests/unit/test_data_splits.py",)),
)  # fmt: skip

_DENSE = (
    ("segment-ends-a-token-late", "data/segments.py", "if reached >= end), last)", "if reached > end), last)", (DENSE,)),
    ("all-segments-count-the-same", "rewards/fit_dense.py", "share = 1 / (used * totals.clamp(min=1))", "share = 1 / totals.sum().clamp(min=1).expand(len(totals))", (DENSE,)),
    ("errors-rewarded", "rewards/dense_reward.py", "marked = -category.weight if", "marked = category.weight if", (DENSE,)),
    ("dense-reward-at-the-end", "optimizers/ppo.py", "shaped_reward(penalty, gap, mask, self.beta) + samples.token_score", "shaped_reward(penalty + samples.score, gap, mask, self.beta)", (DENSE,)),
    ("segment-without-its-first-token", "rewards/fit_dense.py", "[0, *(e + 1 for e in ends[:-1])]", "[1, *(e + 2 for e in ends[:-1])]", (DENSE,)),
    ("one-order-of-a-judge-is-enough", "data/principles.py", "np.where(np.sign(direct) * np.sign(swapped) > 0, (direct + swapped) / 2, 0.0)", "(direct + swapped) / 2", (PRINCIPLES,)),
    ("negated-principles-read-as-they-stand", "data/principles.py", "-scores[i] if negated else scores[i]", "scores[i]", (PRINCIPLES,)),
)  # fmt: skip

_CEILING = (
    ("majority-without-a-majority", "data/judgements.py", "if counts[sign] > max(counts[-sign], counts[0]):", "if counts[sign] > counts[-sign]:", ("tests/unit/test_data_judgements.py",)),
    ("second-reply-voted-first", "data/judgements.py", "_SIGN = {FIRST: 1, SECOND: -1, TIE: 0}", "_SIGN = {FIRST: -1, SECOND: 1, TIE: 0}", ("tests/unit/test_data_judgements.py",)),
    ("accuracy-against-the-majority", "mismatch/reward_model/ceiling.py", "* np.nanmean(signs, axis=1)) / 2", "* np.sign(np.nanmean(signs, axis=1))) / 2", (CEILING,)),
    ("one-label-has-a-ceiling", "mismatch/reward_model/ceiling.py", "(said.notna().sum(axis=1) >= 2)", "(said.notna().sum(axis=1) >= 1)", (CEILING,)),
    ("ends-of-the-share-exchanged", "mismatch/reward_model/ceiling.py", '"attainable_share_low": lambda t: attainable_share(ratio(t[..., :2]), high(t))', '"attainable_share_low": lambda t: attainable_share(ratio(t[..., :2]), low(t))', (CEILING,)),
    ("share-of-the-whole", "stats/ceilings.py", "np.asarray(ceiling, dtype=float) - 0.5)", "np.asarray(ceiling, dtype=float))", (AGREEMENT, CEILING)),
    ("groups-without-pairs-counted", "rewards/objectives/protocol.py", "return pairs_used(judged, self.ties).any(1)", "return judged.present.any(1)", (LEARNER,)),
    ("checks-turned-round", "rewards/verifiable/check.py", "[self.holds(p, r) for p, r", "[not self.holds(p, r) for p, r", (VERIFIABLE,)),
    ("bad-rows-end-the-reading", "data/reading.py", "            tally.left_out(bad, row)\n            continue\n", "            tally.left_out(bad, row)\n            break\n", ("tests/unit/test_data_judgements.py",)),
)  # fmt: skip

_TEACHING = (
    ("tilt-upside-down", "stats/tilting.py", "np.where(np.isnan(gap), -np.inf, gap) / beta", "np.where(np.isnan(gap), -np.inf, gap) * beta", (TILTING,)),
    ("bias-of-the-tilt-kept", "stats/tilting.py", "count * whole - (count - 1) * dropped", "whole", (TILTING,)),
    ("priors-all-alike", "stats/ridge_logistic.py", "np.bincount(group, weights=beta**2, minlength=groups)", "np.full(groups, (beta**2).sum())", (TILTING,)),
    ("certain-units-drawn-again", "stats/unequal_sampling.py", "budget - certain.sum()", "budget", (TILTING,)),
    ("choice-of-pairs-not-undone", "mismatch/reward_model/gains.py", "excess / pairs.probability / others[", "excess / others[", (GAINS,)),
    ("pairs-where-models-agree", "mismatch/reward_model/gains.py", "total**2 / count if len(score) > 1 else 0.0", "0.0", (GAINS,)),
    ("tilted-against-itself", "mismatch/reward_model/gains.py", "sum(axis=1) / (len(u) - 1)\n        steep", "sum(axis=1) / len(u)\n        steep", (GAINS,)),
    ("every-doubt-believed", "mismatch/reward_model/gains.py", "share=max(0.0, 1 - noise / size)", "share=1.0", (GAINS,)),
    ("weights-left-out-of-the-utility", "mismatch/reward_model/gains.py", "        _scaled(weight, here),\n", "", (GAINS,)),
    ("labels-turned-with-their-pair", "mismatch/reward_model/samples.py", 'np.where(turned, 1 - found["outcome"], found["outcome"])', 'found["outcome"]', (TEACHING,)),
    ("unjudged-pairs-forgotten", "mismatch/reward_model/samples.py", 'found["probability"] *= judged.mean()', "pass", (TEACHING,)),
    ("variance-between-prompts-too", "mismatch/reward_model/teaching.py", "np.stack([inside, np.ones", "np.stack([np.nanvar(score) + 0 * inside, np.ones", (TEACHING,)),
    ("equal-gold-counted", "mismatch/reward_model/own_pairs.py", "& (truth != 0)", "", (TEACHING,)),
    ("regret-of-the-score", "mismatch/reward_model/regret.py", "tilted_mean(gold, gold, beta) - tilted_mean(score, gold, beta)", "tilted_mean(score, score, beta) - tilted_mean(score, gold, beta)", (TEACHING,)),
    ("coverage-without-its-edge", "mismatch/reward_model/coverage.py", "(distance <= 1)", "(distance < 1)", (TEACHING,)),
    ("near-to-itself", "pipeline/training_data.py", "        if other:\n", "        if False:\n", (TRAINING_DATA,)),
    ("curve-judged-where-it-learned", "pipeline/training_data.py", "rest = rest_of(held, len(pairs))", "rest = np.arange(len(pairs))", (TRAINING_DATA,)),
    ("pairs-to-label-exchanged", "pipeline/sample_files.py", '"first_reply": a["reply"]', '"first_reply": b["reply"]', ("tests/unit/test_cli_teaching.py",)),
    ("report-without-files", "pipeline/reward_report.py", 'for n, p in found.items() if n and p.is_file()]', "for n, p in found.items() if n and p.is_dir()]", ("tests/unit/test_reward_report.py",)),
)  # fmt: skip

_PROBES = (
    ("swaps-one-way", "mismatch/reward_model/prompt.py", 'both["gain"] + both["gain_back"]', 'both["gain"]', (PROBES,)),
    ("debt-turned-over", "mismatch/reward_model/prompt.py", "float(gamma / beta - 1)", "float(beta / gamma - 1)", (PROBES,)),
    ("one-prompt-unread-is-enough", "mismatch/reward_model/prompt.py", 'still.agg(still=("still", "all")', 'still.agg(still=("still", "any")', (PROBES,)),
    ("rounding-is-reading-the-end", "mismatch/reward_model/probes.py", "return np.where(np.abs(moved) < UNCHANGED, 0.0, moved)", "return moved", (PROBES,)),
    ("flips-count-pairs", "mismatch/reward_model/robustness.py", "weight = 1 / np.bincount(item)[item]", "weight = np.ones(len(item))", (PROBES,)),
    ("every-phrase-has-the-whole-level", "mismatch/reward_model/gaming.py", "level = 1 - (1 - evidence.settings.alarm_level) / max(len(texts), 1)", "level = evidence.settings.alarm_level", (PROBES,)),
    ("searched-where-it-is-judged", "pipeline/probes.py", "if groups[r[0]].prompt.id not in seen]", "if groups[r[0]].prompt.id]", (PROBED,)),
    ("alone-in-company", "pipeline/probes.py", "raw.batch(*_columns(_added(groups, batch, \"\")))[at]", "alone", (PROBED,)),
    ("greed-forgets", "evaluation/suffix_search.py", 'texts = [f"{best} {w}".strip() for w in offered]', "texts = list(offered)", (COPIES,)),
    ("contrast-pairs-share-prompts", "evaluation/prompts.py", "used |= {a, b}", "used |= {a}", (COPIES,)),
    ("half-is-a-third", "evaluation/perturbations.py", "words[(len(words) + 1) // 2 - 1]", "words[(len(words) + 1) // 3 - 1]", (COPIES,)),
)  # fmt: skip

_CONFIGURED = (
    ("every-member-reads-in-its-own-order", "pipeline/members.py", 'own / "order" if differ in ("order", "pretraining") else', 'own / "order" if differ else', (f"{CONFIGURED}::test_members_differ_in_what_they_should",)),
    ("members-of-one-head", "pipeline/members.py", 'own / "head" if differ in ("head", "pretraining") else', 'own / "head" if not differ else', (f"{CONFIGURED}::test_members_differ_in_what_they_should",)),
    ("calibration-judged-on-its-own-pairs", "pipeline/calibrate.py", 'shuffled(delta[~held], key / "order")', 'shuffled(delta[held], key / "order")', (f"{CONFIGURED}::test_a_claimed_chance_comes_from_other_prompts",)),
    ("chance-of-the-other-reply", "pipeline/calibrate.py", "np.column_stack([chances, 1 - chances])", "np.column_stack([chances, chances])", (f"{CONFIGURED}::test_a_calibration_is_kept_and_written_beside_the_scores",)),
    ("first-proxies-mixed", "pipeline/preferences.py", 'alike = all(arm.reward.kind in ("learned", "gold") for arm in context.config.arms)', "alike = True", (CONFIGURED,)),
    ("answers-not-asked-for", "pipeline/sources.py", "            if lacking:\n", "            if False:\n", (f"{CONFIGURED}::test_prompts_without_answers_are_named_before_anything_is_trained",)),
    ("weights-of-a-sum-lost", "rewards/kinds/sum.py", "[(p.weight, sources.build(p.reward)) for p in self.parts]", "[(1.0, sources.build(p.reward)) for p in self.parts]", (REWARDS_CONFIG,)),
    ("eos-read-where-padding-is-eos", "models/reward.py", "replies if self.reads_eos else [replace(r, finished=False) for r in replies]", "replies", (ANYWHERE,)),
    ("head-frozen-beside-the-adapter", "models/reward_adapter.py", "reward.head.requires_grad_(True)", "reward.head.requires_grad_(False)", (ANYWHERE,)),
)  # fmt: skip

_CRITICS = (
    (
        "critic-sees-its-own-token",
        "models/value.py",
        "hidden = torch.cat([first[:, None], later], 1)",
        "hidden = torch.cat([later, later[:, -1:]], 1)",
        (PPO,),
    ),
    (
        "critic-in-raw-units",
        "models/value.py",
        "critic.head.weight.copy_(gain * head.weight[:1])",
        "critic.head.weight.copy_(head.weight[:1])",
        (PPO,),
    ),
    (
        "mixed-in-by-row-of-the-share",
        "optimizers/pretraining.py",
        "return (batch.row[:, None] * k + torch.arange(k)).flatten()",
        "return torch.arange(len(batch) * k)",
        (PPO,),
    ),
    (
        "mix-counts-reply-tokens",
        "optimizers/actor_critic.py",
        "token_mean(demonstration.mask, shown)], 1)",
        "token_mean(demonstration.mask, tokens)], 1)",
        (PPO,),
    ),
    (
        "multipliers-fall-when-violated",
        "ops/lagrange.py",
        "return raw - rate * velocity, velocity",
        "return raw + rate * velocity, velocity",
        (CONSTRAINED,),
    ),
    (
        "penalty-of-kl-in-every-objective",
        "optimizers/constrained.py",
        "samples.token_score, *others]",
        "samples.token_score + shaped_reward(penalty, gap, mask, cfg.beta), *others]",
        (CONSTRAINED,),
    ),
    (
        "one-value-head-for-all",
        "optimizers/constrained.py",
        "for v in self.critic.values(seq).unbind(-1)]",
        "for v in [self.critic(seq)] * (len(self.names) + 1)]",
        (CONSTRAINED,),
    ),
    (
        "reference-weights-upside-down",
        "optimizers/advantage_model_ppo.py",
        "log_weight = -reference_gap(samples)",
        "log_weight = reference_gap(samples)",
        (ADVANTAGE,),
    ),
    ("worst-of-each-cluster", "optimizers/advantage_model_ppo.py", "np.argsort(-score[rows]", "np.argsort(score[rows]", (ADVANTAGE,)),
    (
        "noise-by-place-in-the-call",
        "rewards/feedback.py",
        "(self.key / prompt_id(prompt) / reply.text / int(reply.finished))",
        "(self.key / len(rows))",
        (FEEDBACK,),
    ),
    ("noise-largest-at-the-top", "rewards/feedback.py", "torch.minimum(0.64 * rating, 0.67 * (1 - rating))", "0.64 * rating", (FEEDBACK,)),
    (
        "strangers-merged",
        "pipeline/merge.py",
        "if cosine < RELATED and not unrelated:",
        "if cosine < -1 and not unrelated:",
        ("tests/unit/test_merge.py",),
    ),
    (
        "weights-need-no-sum",
        "pipeline/merge.py",
        "if not abs(sum(weights) - 1) < 1e-6:",
        "if not sum(weights) > 0:",
        ("tests/unit/test_merge.py",),
    ),
    ("other-tokenizers-merged", "models/merge.py", "        if not alike:", "        if tokenizer is None:", ("tests/unit/test_merge.py",)),
    (
        "sum-puts-all-everywhere",
        "rewards/combine.py",
        "total = total + weight * placed_reward(reward, prompts, replies, sequences)",
        "total = total + weight * reward.score(prompts, replies, sequences)[:, None] * sequences.mask",
        (DENSE,),
    ),
)

_DECODING = (
    ("siblings-see-each-other", "decoding/tree.py", "torch.eye(new, dtype", "torch.ones((new, new), dtype", (TREES,)),
    ("kept-nodes-by-column", "decoding/tree.py", "held.gather(2, prompt + nodes", "held.gather(2, nodes", (TREES,)),
    ("nodes-placed-in-order", "decoding/tree.py", "self.length[:, None] + look.sum(2)", "self.length[:, None] + torch.arange(len(self.above[0]) - new, len(self.above[0]))", (TREES,)),
    ("end-read-by-who-may-not", "decoding/tree.py", "None if model.reads_eos else tokenizer.eos_token_id", "None", (TREES,)),
    ("another-candidate-kept", "decoding/tokenwise.py", ".long().argmax(1)[alive] + t", ".long().argmax(1)[alive] * 0 + t", (DECODED,)),
    ("divergence-the-other-way", "ops/tilt.py", "(logp.exp() * gap)", "(logp_base.exp() * gap)", (DECODED,)),
    ("soft-value-unscaled", "ops/tilt.py", "logsumexp(0) / strength", "logsumexp(0)", (DECODED,)),
    ("decoding-streams-of-the-position", "decoding/protocol.py", "range(self.first_row, self.first_row + len(self))", "range(len(self))", (DECODERS,)),
    ("segments-streams-of-the-position", "decoding/segments.py", "key.uniforms([asked.first_row + row], length)", "key.uniforms([row], length)", (DECODERS,)),
    ("mean-over-branches", "decoding/puct.py", "node.visits @ node.q / node.visits.sum()", "node.q.mean()", (SEARCHES,)),
    ("only-visited-branches-count", "decoding/puct.py", "float(node.q.max())", "float(node.q[node.visits > 0].max())", (DECODED,)),
    ("worst-block-kept", "decoding/beam.py", "key=lambda p: -p.value", "key=lambda p: p.value", (DECODED,)),
    ("worst-of-n", "decoding/methods/best_of_n.py", "score.argmax(1)", "score.argmin(1)", (DECODED,)),
    ("others-tie-with-the-best", "stats/best_of_n.py", "(count - 1) * np.where(p < 1, rest, 0.0)", "count * np.where(p < 1, rest, 0.0)", (SEARCHES,)),
    ("next-value-learns-too", "rewards/dense/cd_q.py", "[..., 1:]).detach()", "[..., 1:])", (SCORERS,)),
    ("weights-do-not-add-up", "rewards/dense/cumulative.py", "length * (length + 1)", "length * length", (SCORERS,)),
    ("linear-exponential-the-other-way", "rewards/dense/soft_values.py", "- at_tokens(output, segments))", "+ at_tokens(output, segments))", (SCORERS,)),
    ("chunks-share-streams", "pipeline/decode.py", "first_row=start * config.samples_per_prompt", "first_row=0", (DECODE_VERB,)),
    ("done-chunks-written-again", "pipeline/decode.py", "if not job.run.records_path(_name(arm, s)).exists()", "if s >= 0", (DECODE_VERB,)),
)  # fmt: skip
OFFLINE = "tests/by_hand/test_optimizer_dpo.py"
IPO = "tests/by_hand/test_optimizer_ipo.py"
KTO = "tests/by_hand/test_optimizer_kto.py"
LEFTOVER = "tests/by_hand/test_optimizer_a_lol.py"
ACTION_VALUES = "tests/by_hand/test_optimizer_ilql.py"
INCLUSIVE = "tests/by_hand/test_optimizer_inclusive.py"
FED = "tests/unit/test_pipeline_offline.py"

_OFFLINE = (
    ("longer-is-favoured", "optimizers/dpo.py", "- self.length_alpha * tokens", "+ self.length_alpha * tokens", (OFFLINE,)),
    ("robust-is-only-smoothed", "optimizers/dpo.py", 'if self.loss_type == "robust" else', 'if self.loss_type == "none" else', (OFFLINE,)),
    ("sides-cut-apart", "optimizers/offline.py", "longer = [max(a, b, key=len)", "longer = [min(a, b, key=len)", (OFFLINE,)),
    ("first-is-chosen", "optimizers/offline.py", "if group.ratings[0] > group.ratings[1] else (second, first)", "if True else (second, first)", (OFFLINE,)),
    ("ipo-of-half-the-margin", "ops/preference.py", "(margin - 1 / (2 * tau))", "(margin - 1 / tau)", (IPO,)),
    ("undesirable-rewarded", "ops/preference.py", "undesirable * torch.sigmoid(gain[:, 1])", "undesirable * torch.sigmoid(-gain[:, 1])", (KTO,)),
    ("kl-below-zero", "optimizers/kto.py", "max(totals[1].item() / max(totals[0].item(), 1.0), 0.0)", "totals[1].item() / max(totals[0].item(), 1.0)", (KTO,)),
    ("replies-meet-their-own-prompt", "optimizers/kto.py", "[rows[i ^ 1] for i in", "[rows[i] for i in", (KTO,)),
    ("closeness-of-the-chosen-alone", "optimizers/inclusive.py", "kl_k2(logp - logp_ref).sum(1)", "kl_k2(logp - logp_ref)[:, 0]", (INCLUSIVE,)),
    ("ratio-learns", "ops/offline_gradient.py", "weight = ratio.detach().sum(1).exp()", "weight = ratio.sum(1).exp()", (LEFTOVER,)),
    ("what-is-worse-is-imitated", "ops/offline_gradient.py", "return torch.clamp(advantage, min=0.0)", "return advantage", (LEFTOVER,)),
    ("baseline-of-the-first-rows", "optimizers/a_lol.py", "numbers=batch.row.tolist()", "numbers=list(range(len(batch)))", (LEFTOVER,)),
    ("baseline-of-the-policy", "optimizers/a_lol.py", "Rollout(policy_of(parts.reference, parts.policy.tokenizer), parts.rollout.precision)", "Rollout(parts.policy)", (LEFTOVER,)),
    ("expectile-upside-down", "ops/action_values.py", "torch.where(error < 0, 1 - expectile, expectile)", "torch.where(error < 0, expectile, 1 - expectile)", (ACTION_VALUES,)),
    ("value-after-the-end", "ops/action_values.py", "torch.zeros_like(value[:, :1])], 1)", "value[:, -1:]], 1)", (ACTION_VALUES,)),
    ("greater-of-the-twins", "models/q_heads.py", "torch.stack(found).amin(0)", "torch.stack(found).amax(0)", (ACTION_VALUES,)),
    ("unseen-tokens-raised", "optimizers/ilql.py", "+ cfg.cql_coef * low", "- cfg.cql_coef * low", (ACTION_VALUES,)),
    ("slow-copies-forgotten", "loop/state.py", "            b.copy_(state.tensors[", "            b.clone().copy_(state.tensors[", (CONTRACT + "::test_stopped_and_resumed_is_bit_identical[ilql]",)),
    ("offline-needs-reward-model", "pipeline/arm_config.py", 'if not optimizer.uses_reward and arm.reward.kind == "learned":', 'if arm.reward.kind == "none":', (FED,)),
    ("demonstrations-as-pairs", "pipeline/feed.py", "[judged(p) for p in pool] if pairs else", "[judged(p) for p in pool] if True else", (FED,)),
)  # fmt: skip

_SHARDING = (
    ("split-gradients-averaged", "loop/sharding.py", "set_gradient_divide_factor(1.0)", "set_gradient_divide_factor(2.0)", (SHARDED,)),
    ("whole-weights-not-taken-over", "loop/sharding.py", "p.copy_(placed_like(own[name].detach(), p))", "p.detach()", (SHARDED,)),
    ("norm-of-own-shard", "loop/sharding.py", "add(nn.utils.get_total_norm(split).square())", "nn.utils.get_total_norm(split).square()", (SHARDED,)),
    ("slots-of-one-process-saved", "loop/state.py", "gathered(value.detach())", "getattr(value, '_local_tensor', value).detach()", (SHARDED,)),
)  # fmt: skip

_EXPLOITS = (
    ("holm-multiplies-all-alike", "mismatch/exploit_tests.py", "p[int(i)] * (len(p) - rank)", "p[int(i)] * 1", (EXPLOITS,)),
    ("exploits-need-not-grow", "mismatch/exploit_candidates.py", "values = [grew * sure] if gold is None", "values = [sure] if gold is None", (EXPLOITS,)),
    ("deviations-from-no-mean", "mismatch/exploit_candidates.py", "centred: Array = table - (sums", "centred: Array = table - 0 * (sums", (EXPLOITS,)),
    ("earned-phrases-are-accused", "mismatch/reward_policy/exploits.py", "promised + t.cost.value <= settings.max_return * max(promised, 0.0)", "promised > 0", (EXPLOITS,)),
    ("the-cost-is-not-asked", "mismatch/exploit_tests.py", "tails.append(_tail(here, place, -1.0, compared) if here is not None else 1.0)", "tails.append(0.0)", (EXPLOITS,)),
)  # fmt: skip

_PAGES = (
    ("named-replies-dropped", "report/samples.py", "chosen = np.union1d(chosen, ", "chosen = np.intersect1d(chosen, ", (REPORT_PAGES,)),
    ("bases-in-one-figure", "report/numbers.py", 'for n, h in found if h["basis"] == basis', 'for n, h in found if h["basis"]', (REPORT_PAGES,)),
    ("evidence-of-another-arm", "report/what_to_do.py", 'for name in action["diagnoses"] if name in links', "for name in links", (REPORT_PAGES,)),
)  # fmt: skip

_ISOLATION = (
    ("orders-weighed-alike", "mismatch/isolation.py", "factorial(k) * factorial(n - k - 1) / factorial(n) *", "(1 / 2 ** (n - 1)) *", (ISOLATION,)),
    ("noise-has-a-share", "mismatch/isolation.py", "least = np.abs(effect), SHOWN *", "least = np.abs(effect), 0.0 *", (ISOLATION,)),
    ("gain-of-the-first", "mismatch/isolation.py", "for s in (steps.max(), steps.min())", "for s in (steps.min(), steps.max())", (ISOLATION,)),
    ("other-worlds-isolated", "pipeline/isolate.py", "if folder != MAIN and _seen(world) != _seen(worlds[MAIN]):", "if folder == MAIN + MAIN:", (ISOLATED,)),
)  # fmt: skip

_HEADLINES = (
    ("promise-between-prompts", "mismatch/headlines/promise_kept.py", "x[here] - (np.bincount(prompt, x[here], size) / counts)[prompt]", "x[here] - x[here].mean()", (HEADLINE,)),
    ("promise-without-a-slope", "mismatch/headlines/promise_kept.py", "quotient(gain, float(slope) * rise)", "quotient(gain, rise)", (HEADLINE,)),
    ("signal-against-full-ceiling", "mismatch/headlines/signal_used.py", 'found["attainable_share_low"]', 'found["accuracy_one_label"]', (HEADLINE,)),
    ("collapse-counted", "mismatch/headlines/moved_along.py", "* (not _fell(reward[1:, -1] - reward[1:, best]))", "* 1.0", (HEADLINE,)),
    ("noise-counted", "mismatch/headlines/moved_along.py", "least = SHOWN_MOVE * error", "least = 0.0 * error", (HEADLINE,)),
)  # fmt: skip

_AUDITS = (
    ("labels-of-another-checkpoint", "store/foreign_labels.py", "iter([*together, *pairs])", "iter(pairs)", (AUDITED,)),
    ("infinite-rewards-read", "store/foreign_types.py", '_refuse(pc.is_inf(numbers), numbers, "must be finite", file, name)', "pass", (AUDITED,)),
    ("texts-become-dates", "store/foreign_files.py", "explicit_schema=pa.schema(texts)) if texts else None", "explicit_schema=pa.schema(texts)) if not texts else None", (AUDITED,)),
    ("any-score-is-the-proxy", "store/foreign.py", '("proxy_fixed", "proxy", "reward", "score")', '("proxy_fixed", "proxy", "reward", "kl")', (AUDITED,)),
    ("panels-of-another-frame", "mismatch/panel.py", "if found is None or found[0] is not records:", "if found is None:", (MANY,)),
    ("neighbours-are-the-drawn-pairs", "mismatch/pairs.py", "order = np.arange(n) if few else", "order = np.arange(n) if True else", (MANY,)),
    ("absent-texts-are-read", "mismatch/verdict.py", 'getattr(module, "READS_TEXTS", False) and not', "False and not", (MANY,)),
    ("falls-looked-for-everywhere", "mismatch/policy_evaluation/checkpoint_evaluations.py", "(1 - settings.level) / max(looked, 1)", "(1 - settings.level)", (CHECKPOINTS,)),
    ("scaled-on-all-replies", "pipeline/audit.py", "start = [r for r in rows if r.step == 0]", "start = list(rows)", (AUDITED_MODELS,)),
    ("chunks-sampled-alike", "pipeline/audit.py", 'Key(job.config.seed) / "samples" / start', 'Key(job.config.seed) / "samples"', (AUDITED_MODELS,)),
)  # fmt: skip

_CURVES = (
    (
        "a later number of a step is dropped",
        "store/curve_logs.py",
        "dtype=float).groupby(level=0).last()",
        "dtype=float).groupby(level=0).first()",
        (LOGS,),
    ),
    ("a resumed run's events come first", "store/curve_logs.py", "key=lambda s: s.wall)", "key=lambda s: -s.wall)", (LOGS,)),
    ("checksums are not masked", "store/event_files.py", "+ np.uint32(0xA282EAD8)", "+ np.uint32(0)", (LOGS,)),
    (
        "KL of an update passes for KL from the reference",
        "store/curve_names.py",
        'Known("actor/ppo_kl", "update_kl_nats", "verl")',
        'Known("actor/ppo_kl", "kl_token_nats", "verl")',
        (LOGS,),
    ),
    (
        "the proxy on evaluation prompts passes for an evaluation",
        "store/curve_names.py",
        '_ON_EVALUATION = {"proxy": "eval_proxy", ',
        "_ON_EVALUATION = {",
        (LOGS,),
    ),
    (
        "reward against KL is no longer read over the root",
        "mismatch/curves_alone/reward_kl.py",
        "np.sqrt(np.maximum(spent, 0))",
        "np.maximum(spent, 0)",
        (CURVES,),
    ),
    (
        "longer replies alarm without the score",
        "mismatch/curves_alone/length.py",
        "grew and table.above(rise, 0) and table.above(same, 0)",
        "grew and table.above(rise, 0)",
        (CURVES,),
    ),
    (
        "an evaluation that falls with the score alarms",
        "mismatch/curves_alone/evaluations.py",
        "if certain and not (rise.high is not None and rise.high < 0):",
        "if certain:",
        (CURVES,),
    ),
    (
        "which side of an evaluation is better is forgotten",
        "mismatch/curves_alone/evaluations.py",
        "largest_fall(side(name, settings) * values",
        "largest_fall(values",
        (LOGGED,),
    ),
    (
        "windows of a fall overlap",
        "mismatch/curves_alone/evaluations.py",
        "later = means[..., width:]",
        "later = means[..., width - 1 :]",
        (CURVES,),
    ),
    (
        "dropout stays on while a callback looks",
        "models/undisturbed.py",
        "                model.eval()\n",
        "                model.train()\n",
        (CALLBACK,),
    ),
    ("modes do not come back", "models/undisturbed.py", "module.training = training", "module.training = False", (CALLBACK,)),
    (
        "generators of others are not put back",
        "models/undisturbed.py",
        "with generators_kept(), torch.random.fork_rng(devices=devices), torch.no_grad():",
        "with generators_kept(), torch.no_grad():",
        (CALLBACK,),
    ),
    ("the reference calls the policy", "models/undisturbed.py", "vars(twin).pop(name, None)", "vars(twin).get(name, None)", (CALLBACK,)),
    ("rewards are not weighted", "pipeline/callback.py", "sum(w * s for w, s in known)", "sum(s for w, s in known)", (CALLBACK,)),
    (
        "draws depend on the batch",
        "pipeline/callback.py",
        "uniforms=key.uniforms(numbers, self.decoding.max_tokens)",
        "uniforms=key.uniforms(range(len(numbers)), self.decoding.max_tokens)",
        (CALLBACK,),
    ),
)

EPROCESS = "tests/by_hand/test_stats_eprocess.py"
KEEP = "tests/by_hand/test_mismatch_keep.py"
STOP = "tests/by_hand/test_mismatch_stop.py"
ADVICE = "tests/by_hand/test_mismatch_actions.py"
EARLY = "tests/unit/test_pipeline_early_stop.py"

_DECISION = (
    ("bets-on-what-is-seen", "stats/eprocess.py", "bets[..., 1:] = np.clip(wanted[..., :-1], 0, largest)", "bets = np.clip(wanted, 0, largest)", (EPROCESS,)),
    ("e-bh-without-rank", "stats/eprocess.py", "ordered * alpha * np.arange(1, len(e) + 1) >= len(e)", "ordered * alpha >= len(e)", (EPROCESS,)),
    ("all-capital-at-once", "stats/eprocess.py", "np.sum(betting, axis=0) / parts + idle", "np.sum(betting, axis=0)", (STOP,)),
    ("covariate-speaks-for-checkpoint", "mismatch/keep_rule.py", "gap = values - panel.cells(values).mean()[panel.step]", "gap = values - np.nanmean(values)", (KEEP,)),
    ("tie-is-bought", "mismatch/keep_rule.py", "if table.texts[pair[0]] == table.texts[pair[1]]:", "if table.texts[pair[0]] is None:", (KEEP,)),
    ("law-without-correlation", "mismatch/utility.py", "law -= both *", "law += both *", (KEEP,)),
    ("reply-serves-twice", "mismatch/stop_rule.py", "if b != best or later in used or earlier in used:", "if b != best:", (STOP,)),
    ("best-never-moves", "mismatch/stop_rule.py", "best = newest if total > 0 else best", "best = 0", (STOP,)),
    ("penalty-without-harm", "mismatch/actions.py", "if stop and kept_kl is not None", "if kept_kl is not None", (ADVICE,)),
    ("stop-is-not-heard", "mismatch/decision.py", "decision = replace(decision, stop=True,", "decision = replace(decision, stop=decision.stop,", (ADVICE,)),
    ("stop-is-forgotten", "pipeline/arm.py", "arm.stopped_at = stopped_at(context, arm.config.name, arm.config.early_stop, done)", "arm.stopped_at = None", (EARLY,)),
    ("worse-side-wins", "pipeline/watching.py", "(1 if config.higher_is_better else -1)", "1", (EARLY,)),
)  # fmt: skip

_ALL = (
    *_DECISION,
    *_PAGES,
    *_CURVES,
    *_AUDITS,
    *_ISOLATION,
    *_HEADLINES,
    *_EXPLOITS,
    *_SHARDING,
    *_OFFLINE,
    *_DECODING,
    *_CRITICS,
    *_CONFIGURED,
    *_PROBES,
    *_CEILING,
    *_DENSE,
    *_OBJECTIVES,
    *_LEAN,
    *_MASKS,
    *_REDUCTIONS,
    *_SAMPLING,
    *_REALIGNMENT,
    *_REWARD_MODELS,
    *_STAGES,
    *_RESUME,
    *_NUMBERS,
    *_EVALUATIONS,
    *_DIAGNOSES,
    *_REWARD_POLICY,
    *_EDGES,
    *_TEACHING,
)
BREAKAGES: tuple[Breakage, ...] = tuple(Breakage(name, _SRC + file, old, new, tests) for name, file, old, new, tests in _ALL)
