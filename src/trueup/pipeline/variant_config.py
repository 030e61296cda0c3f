"""What a probe measures beside the plain samples: other decodings, other prompts, parts of replies, texts that somebody else wrote.

Rows of a variant carry its name in the record's column ``variant``; curves and pairs are made of plain samples only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trueup.core.config import Config

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class GreedyVariant(Config):
    """One reply a prompt, always the most probable token."""

    kind: Literal["greedy"] = "greedy"
    """The policy at temperature 0."""

    def named(self) -> str:
        """``greedy``."""
        return "greedy"


class TemperatureVariant(Config):
    """Replies at another temperature than the run's."""

    kind: Literal["temperature"] = "temperature"
    """The policy, sampled otherwise."""
    temperature: float = Field(gt=0)
    """Divides the logits."""
    samples: int = Field(default=4, ge=1)
    """Replies a prompt."""

    def named(self) -> str:
        """Such as ``temperature_0.5``."""
        return f"temperature_{self.temperature:g}"


class PromptVariant(Config):
    """Replies to a prompt with a text put around it, such as "think step by step"; scored as replies to the plain prompt."""

    kind: Literal["prompt"] = "prompt"
    """A prompt trick."""
    name: Name
    """Short name."""
    before: str = ""
    """Put before the prompt, with a space between."""
    after: str = ""
    """Put after it."""
    samples: int = Field(default=4, ge=1)
    """Replies a prompt."""

    def named(self) -> str:
        """Such as ``prompt_step_by_step``."""
        return f"prompt_{self.name}"

    @model_validator(mode="after")
    def _changes_something(self) -> PromptVariant:
        return _changing(self)


class RewordedVariant(Config):
    """The plain samples, scored as replies to the same prompt in other words: whoever scores should hardly notice."""

    kind: Literal["reworded"] = "reworded"
    """The same replies under another wording."""
    name: Name
    """Short name."""
    before: str = ""
    """Put before the prompt, with a space between; it should ask for nothing else."""
    after: str = ""
    """Put after it."""

    def named(self) -> str:
        """Such as ``reworded_please``."""
        return f"reworded_{self.name}"

    @model_validator(mode="after")
    def _changes_something(self) -> RewordedVariant:
        return _changing(self)


class ParaphraseVariant(Config):
    """The plain samples in other words, scored; replies to which no replacement applies are left out."""

    kind: Literal["paraphrase"] = "paraphrase"
    """The same replies in other words."""
    replace: dict[str, str] = {}
    """Words -> words that mean the same; if empty, the English rules of `trueup.evaluation.paraphrase`."""

    def named(self) -> str:
        """``paraphrase``."""
        return "paraphrase"


class CutVariant(Config):
    """The first part of each plain sample, scored as an unfinished reply."""

    kind: Literal["cut"] = "cut"
    """Parts of the same replies."""
    share: float = Field(ge=0.01, lt=1)
    """Of the reply's tokens, rounded up."""

    def named(self) -> str:
        """Such as ``cut_50``, per cent."""
        return f"cut_{100 * self.share:.0f}"


class DemonstrationVariant(Config):
    """Demonstrations of the world, scored: how probable the checkpoint finds what others wrote."""

    kind: Literal["demonstration"] = "demonstration"
    """Demonstrations, the same at every checkpoint."""
    rows: int = Field(default=200, ge=10)
    """How many, drawn at random; all of them where there are fewer."""

    def named(self) -> str:
        """``demonstration``."""
        return "demonstration"


class PairVariant(Config):
    """Both replies of held-out preference pairs, scored: what the policy's own log-ratio prefers."""

    kind: Literal["pair"] = "pair"
    """Held-out pairs, the same at every checkpoint."""
    pairs: int = Field(default=200, ge=10)
    """How many, drawn at random; all of them where there are fewer."""

    def named(self) -> str:
        """``pair``."""
        return "pair"


Variant = (
    GreedyVariant
    | TemperatureVariant
    | PromptVariant
    | RewordedVariant
    | ParaphraseVariant
    | CutVariant
    | DemonstrationVariant
    | PairVariant
)


def _kind(value: Any) -> Any:
    """A bare word is a variant of that kind."""
    return {"kind": value} if isinstance(value, str) else value


AnyVariant = Annotated[Annotated[Variant, Field(discriminator="kind")], BeforeValidator(_kind)]


def check_variants(variants: tuple[Variant, ...]) -> None:
    """Whether names are distinct.

    Raises:
        ValueError: two rows of the records would bear one name.
    """
    names = [v.named() for v in variants]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"variants need distinct names, got {', '.join(twice)} more than once; change name, share or temperature")


def _changing(variant: Any) -> Any:
    if not variant.before.strip() and not variant.after.strip():
        raise ValueError("needs 'before' or 'after', the text put around the prompt")
    return variant
