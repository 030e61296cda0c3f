"""The record: one row a sampled reply. Every diagnosis, report and audit reads nothing else.

Absent is None, never 0. The same row type holds the replies of the offline preference set (``arm="offline"``, ``policy_id`` the
source that wrote it), so that a reward model's accuracy on its own pairs and on the policy's pairs come from one table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

SCHEMA_VERSION = 1
OFFLINE_ARM = "offline"


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a reply was drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Label:
    """One annotator's comparison of this reply with another reply to the same prompt."""

    annotator: str
    other_sample_id: str
    preference: float
    """1 this reply won, 0 the other did, 0.5 a tie."""


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One sampled reply with everything that is known of it."""

    run: str
    arm: str
    """Name of the arm, or ``offline`` for replies of the preference set."""
    seed: int
    step: int | None
    """Policy updates done when it was sampled; None for offline replies."""
    split: str
    """``train``, ``validation`` or ``test``: which prompts it belongs to."""
    prompt_id: str
    sample_id: str
    """Unique in the run."""
    policy_id: str
    """What wrote it: a checkpoint, or a source policy of the preference set."""
    prompt: str
    """Text shown to the policy; the last user turn's full rendering for conversations."""
    response: str
    variant: str | None = None
    """How the prompt, the decoding or the reply differs from the plain sample's, such as ``greedy``; None for the plain sample."""
    n_tokens: int | None = None
    """Tokens sampled, end-of-sequence included."""
    finished: bool | None = None
    """The policy ended the reply itself."""
    decoding: Decoding | None = None
    logp_policy_nats: float | None = None
    """log pi(reply | prompt), recomputed in training precision; summed over tokens."""
    logp_ref_nats: float | None = None
    logp_sampling_nats: float | None = None
    """The sampler's own log-probability."""
    kl_policy_ref_exact_nats: float | None = None
    """Sum over the reply's positions of KL(pi_t || ref_t), each over the whole vocabulary: unbiased for the sequence KL."""
    kl_bound_nats: float | None = None
    """What the KL of that which wrote the reply from the reference cannot exceed, where only a bound is known, as of best-of-n."""
    compute_tokens: int | None = None
    """Tokens that policies, reward and value models computed to write the reply, rejected ones included; the prompt is not counted."""
    scores: dict[str, float] = field(default_factory=dict)
    """Reward model id -> raw score."""
    proxy_fixed: float | None = None
    """Score of what the arm optimised when it began: the run's first reward model, unless the arm says otherwise."""
    proxy_current: float | None = None
    """Score of what the arm optimises now; a reward model's is rescaled on the reference samples."""
    disagreement: float | None = None
    """Standard deviation over the members of what the arm optimises, or of its posterior; score units."""
    gold: float | None = None
    """The score believed true."""
    gold_components: dict[str, float] = field(default_factory=dict)
    win_probability: dict[str, float] = field(default_factory=dict)
    """Reward model id -> its calibrated chance that this reply wins the comparison of its label."""
    labels: list[Label] = field(default_factory=list)
    evaluations: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or Parquet."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> SampleRecord:
        """The inverse of `to_dict`; unknown keys are an error, missing optional ones are absent."""
        known = {f.name for f in fields(cls)}
        extra = set(row) - known
        if extra:
            raise ValueError(f"unknown record columns {sorted(extra)}; known: {sorted(known)}")
        values = dict(row)
        if values.get("decoding") is not None:
            values["decoding"] = Decoding(**values["decoding"])
        values["labels"] = [Label(**x) for x in values.get("labels") or []]
        for name in ("scores", "gold_components", "win_probability", "evaluations"):
            values[name] = {k: v for k, v in dict(values.get(name) or {}).items() if v is not None}
        return cls(**values)
