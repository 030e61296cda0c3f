"""What `trueup audit` is told of models that were trained anywhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trueup.core.config import Config


class AuditConfig(Config):
    """Checkpoints of a policy, what they came from, and what they were optimised for."""

    name: str = "audit"
    """Name of the run in its records."""
    seed: int = Field(default=0, ge=0)
    """Every random number comes from it."""
    policies: tuple[str, ...] = Field(min_length=1)
    """Hugging Face folders or hub names of the checkpoints, or folders of LoRA adapters. A number at the end of a name
    (``checkpoint-500``) is its step; where one has none, or two the same, steps are 1, 2, … in this order."""
    reference: str
    """The policy before its optimisation: step 0, and what KL is measured from."""
    reward_models: tuple[str, ...] = Field(min_length=1)
    """What the policy was optimised for, each scaled to mean 0 and deviation 1 on the replies of step 0; of several, the mean."""
    preferences: str | None = None
    """File of preference pairs, best ones that the reward models have not learned from: their offline accuracy is measured there."""
    prompts: str | None = None
    """File of prompts; those of the preference pairs if left out."""
    on_bad: Literal["error", "skip"] = "skip"
    """What to do with rows of these files that cannot be used, such as repeated prompts: stop, or leave them out."""
    gold: str | None = None
    """What is believed true: ``vader`` (sentiment), ``pattern:EXPRESSION`` (1 where a regular expression matches the reply), or the
    folder or hub name of a reward model."""
    max_prompts: int = Field(default=100, ge=1)
    """Prompts that are answered, drawn at random from the file."""
    max_pairs: int = Field(default=500, ge=1)
    """Preference pairs that are scored, drawn at random from the file."""
    samples_per_prompt: int = Field(default=4, ge=1)
    """Replies of each checkpoint to each prompt; diagnoses of pairs need two."""
    max_completion_length: int = Field(default=128, ge=1)
    """Longest reply, tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of all policies, in sampling and in likelihoods."""
    prompts_at_once: int = Field(default=16, ge=1)
    """Prompts answered together, then written; what a killed audit repeats at most. Draws depend on it."""
    pad_token: str | None = None
    """Existing token to pad with, where the policy's tokenizer has none."""
    rendering: Literal["template", "roles"] = "template"
    """How messages become text for a reward model without a chat template: stop (template), or name the roles."""
    threads: int | None = Field(default=None, ge=1)
    """torch threads; torch's own choice if left out."""

    @model_validator(mode="after")
    def _something_to_answer(self) -> AuditConfig:
        if self.prompts is None and self.preferences is None:
            raise ValueError("give 'preferences', or 'prompts', or both: the checkpoints must answer something")
        for name, given in (("policies", self.policies), ("reward_models", self.reward_models)):
            if len(set(given)) < len(given):
                raise ValueError(f"'{name}' names one folder twice")
        return self
