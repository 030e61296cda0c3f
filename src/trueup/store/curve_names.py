"""What other trainers call the curves that we know: one table, in order of preference.

Names are compared without ``train/`` in front; behind ``eval/``, ``eval_`` or ``val/`` they mean the same on the evaluation prompts.
docs/auditing.md shows the table. It was read off the code of TRL 1.16 (and of its former PPO trainer), OpenRLHF 0.11.2 and verl 0.9.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trueup.core.errors import UserError, did_you_mean

CURVES: Mapping[str, str] = {
    "proxy": "mean score of what is optimised, penalties left out",
    "reward": "mean of what the optimizer sees: the score less penalties",
    "proxy_std": "standard deviation of the score over the replies of a batch, or of a prompt",
    "zero_spread_share": "share of prompts whose replies all score alike",
    "kl_reply_nats": "KL from the reference, summed over a reply",
    "kl_token_nats": "KL from the reference, mean over tokens",
    "update_kl_nats": "KL of one update from the policy that sampled: not from the reference",
    "length_tokens": "mean tokens of a reply",
    "clipped_share": "share of replies cut at the longest length",
    "entropy_nats": "mean entropy of a token",
    "eval_proxy": "mean score on the evaluation prompts: the proxy again, no evaluation of its own",
    "eval_length_tokens": "mean tokens of a reply to the evaluation prompts",
    "eval_clipped_share": "share of those replies cut at the longest length",
}
"""Our name to its meaning. Beside them, ``evaluations.<name>`` and ``scores.<name>``."""


@dataclass(frozen=True)
class Known:
    """A name in someone's logs."""

    name: str
    """As it is logged; ``<x>`` stands for any text."""
    curve: str
    """Ours; empty where we have no use for it."""
    by: str
    """Who logs it."""


KNOWN: tuple[Known, ...] = (
    Known("objective/scores", "proxy", "TRL PPO, online DPO"),
    Known("critic/score/mean", "proxy", "verl"),
    Known("rollout/reward_mean", "proxy", "OpenRLHF"),
    Known("reward", "proxy", "TRL RLOO, GRPO; OpenRLHF"),
    Known("objective/rlhf_reward", "reward", "TRL PPO"),
    Known("critic/rewards/mean", "reward", "verl"),
    Known("return", "reward", "OpenRLHF"),
    Known("reward_std", "proxy_std", "TRL RLOO, GRPO"),
    Known("rollout/reward_std", "proxy_std", "OpenRLHF"),
    Known("group_reward_std", "proxy_std", "OpenRLHF"),
    Known("frac_reward_zero_std", "zero_spread_share", "TRL RLOO, GRPO"),
    Known("objective/kl", "kl_reply_nats", "TRL PPO, online DPO"),
    Known("kl", "kl_token_nats", "TRL RLOO, GRPO; OpenRLHF"),
    Known("actor/reward_kl_penalty", "kl_token_nats", "verl"),
    Known("actor/kl_loss", "kl_token_nats", "verl"),
    Known("kl_loss", "kl_token_nats", "verl"),
    Known("actor/ppo_kl", "update_kl_nats", "verl"),
    Known("ppo_kl", "update_kl_nats", "OpenRLHF"),
    Known("policy/approxkl_avg", "update_kl_nats", "TRL PPO"),
    Known("completions/mean_length", "length_tokens", "TRL RLOO, GRPO"),
    Known("rollout/response_length_mean", "length_tokens", "OpenRLHF"),
    Known("response_length_mean", "length_tokens", "OpenRLHF, evaluation"),
    Known("response_length/mean", "length_tokens", "verl"),
    Known("response_length", "length_tokens", "OpenRLHF"),
    Known("completions/clipped_ratio", "clipped_share", "TRL RLOO, GRPO"),
    Known("rollout/truncated_rate", "clipped_share", "OpenRLHF"),
    Known("truncated_rate", "clipped_share", "OpenRLHF, evaluation"),
    Known("response_length/clip_ratio", "clipped_share", "verl"),
    Known("response_clip_ratio", "clipped_share", "OpenRLHF"),
    Known("entropy", "entropy_nats", "TRL RLOO, GRPO"),
    Known("actor/entropy", "entropy_nats", "verl"),
    Known("actor/entropy_loss", "entropy_nats", "verl"),
    Known("entropy_loss", "entropy_nats", "OpenRLHF"),
    Known("rewards/<x>/mean", "scores.<x>", "TRL RLOO, GRPO"),
    Known("val-core/<x>/reward/mean@<n>", "eval_proxy", "verl"),
    Known("val-aux/<x>/reward/mean@<n>", "eval_proxy", "verl"),
    Known("val-core/<x>/mean@<n>", "evaluations.<x>", "verl"),
    Known("val-aux/<x>/mean@<n>", "evaluations.<x>", "verl"),
)
"""Where two names of a log mean one curve, the one that comes first here is read."""

EVALUATED: tuple[Known, ...] = (Known("<x>_pass1", "eval_proxy", "OpenRLHF"), Known("test_score/<x>", "eval_proxy", "verl, formerly"))
"""Further names that are known behind the prefix of an evaluation; OpenRLHF's ``pass1`` is the mean of the reward."""

UNUSED = re.compile(
    "|".join(
        (
            r"(train_)?loss|.*[/_]loss|aux_loss|learning_rate|.*\blr|grad_norm|.*/grad_norm|epoch|.*/epoch|num_tokens|num_samples|step_time",
            r".*(runtime|_per_second|per_step|_time)|total_flos|timing.*|perf/.*|.*seqlen.*|prompt_length.*|training/.*|num_turns.*",
            r"critic/(advantages|returns|values|score|rewards)/.*|critic/vf_.*|.*clipfrac.*|clip_ratio/.*|ppo_clip_ratio|.*_coeff?",
            r"completions/(min|max)_.*|completions/mean_terminated_length|response_length.*/(min|max)|response_length_non_aborted/.*",
            r"response/aborted_ratio|rewards/.*|log(it|p)s/.*|logprobs_diff|val/(ratio|ratio_var|clipfrac.*)|eps|episode|objective/.*|policy/.*",
            r"rollout/.*|val-(core|aux)/.*|sampling/.*|.*pass\d+|mean_token_accuracy|actor/.*|actor_.*|total_length|critic_loss|vllm_kl",
        )
    )
)
"""Names that are known and say nothing about the three links."""
_EVALUATION = re.compile(r"(?:eval[/_]|val/(?!ratio|clipfrac))+")
_ON_EVALUATION = {"proxy": "eval_proxy", "length_tokens": "eval_length_tokens", "clipped_share": "eval_clipped_share"}


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the names of one log are read."""

    used: dict[str, str] = field(default_factory=dict)
    """Our curve to the name it is read from."""
    passed: dict[str, str] = field(default_factory=dict)
    """Names that mean a curve which is read from another one."""
    unused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def name_curves(names: Iterable[str], given: Mapping[str, str] | None = None) -> Naming:
    """Which of a log's names are which of our curves.

    Args:
        names: as logged.
        given: our curve to the log's name, where the user says so; these come first.

    Raises:
        UserError: a given name is not in the log, or is given to no curve of ours.
    """
    names, given = list(dict.fromkeys(names)), dict(given or {})
    for curve, name in given.items():
        if name not in names:
            raise UserError(
                f"the log has no '{name}'.{did_you_mean(name, names)} It has: {', '.join(sorted(names))}.", where=f"curve '{curve}'"
            )
        if curve not in CURVES and not curve.startswith(("evaluations.", "scores.")):
            raise UserError(
                f"is no curve.{did_you_mean(curve, CURVES)} Known: {', '.join(CURVES)}, evaluations.<name>, scores.<name>.",
                where=f"curve '{curve}'",
            )
    found: dict[str, tuple[int, str]] = {curve: (-1, name) for curve, name in given.items()}
    passed, unused, unknown = dict[str, str](), list[str](), list[str]()
    for name in (n for n in names if n not in given.values()):
        rank, curve = meaning(name)
        if not curve:
            (unused if rank else unknown).append(name)
        elif curve not in found or rank < found[curve][0]:
            if curve in found:
                passed[found[curve][1]] = curve
            found[curve] = (rank, name)
        else:
            passed[name] = curve
    return Naming(
        used={curve: name for curve, (_, name) in found.items()},
        passed=passed,
        unused=tuple(sorted(unused)),
        unknown=tuple(sorted(unknown)),
    )


def meaning(name: str) -> tuple[int, str]:
    """Rank and curve of one logged name; ``(1, "")`` for a known one without use, ``(0, "")`` for an unknown one."""
    bare = name.removeprefix("train/")
    evaluated = _EVALUATION.match(bare)
    if evaluated:
        return _evaluated(bare[evaluated.end() :])
    for rank, known in enumerate(KNOWN, 2):
        match = _pattern(known.name).fullmatch(bare)
        if match:
            return rank, known.curve.replace("<x>", match.groupdict().get("x", ""))
    return (1, "") if UNUSED.fullmatch(bare) else (0, "")


def _evaluated(name: str) -> tuple[int, str]:
    """A name behind ``eval/``: a known curve on the evaluation prompts, or an evaluation of its own."""
    for rank, known in enumerate((*KNOWN, *EVALUATED), 2):
        match = _pattern(known.name).fullmatch(name)
        if match:
            curve = known.curve.replace("<x>", match.groupdict().get("x", ""))
            return (rank, _ON_EVALUATION[curve]) if curve in _ON_EVALUATION else (rank, curve) if curve == "eval_proxy" else (1, "")
    # OpenRLHF puts the data set's name in front
    for ending in ("_response_length_mean", "_truncated_rate"):
        if name.endswith(ending):
            return len(KNOWN) + 2, _ON_EVALUATION[{"_truncated_rate": "clipped_share"}.get(ending, "length_tokens")]
    return (1, "") if UNUSED.fullmatch(name) else (len(KNOWN) + 2, f"evaluations.{name}")


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"(<x>|<n>)", name)
    return re.compile("".join({"<x>": "(?P<x>.+)", "<n>": r"\d+"}.get(p, re.escape(p)) for p in parts))
