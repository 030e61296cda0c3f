"""Annotators who compare two replies: mostly right, biased in ways a policy can find, a little random.

P(first wins) = (1 - e) sigma(d / temperature) + e sigma(-d / temperature), with d the difference of what the annotator feels:
gold plus a bias for each phrase and word. The bias is linear in counts where the truth is not; that is the whole mismatch.
"""

from __future__ import annotations

import math

from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.sandbox.desk.reading import Reading


class Annotator(Config):
    """One person who labels pairs; biases are in units of gold."""

    name: str
    """Name written beside each label."""
    share: float = Field(default=1.0, gt=0)
    """Relative number of pairs this annotator labels."""
    care: float = Field(default=1.0, ge=0)
    """Weight of gold in the annotator's mind."""
    length: float = Field(default=0.0, ge=-5, le=5)
    """Liking for ten more words."""
    flattery: float = Field(default=0.0, ge=-5, le=5)
    """Liking for a flattering phrase."""
    politeness: float = Field(default=0.0, ge=-5, le=5)
    """Liking for a polite phrase."""
    caution: float = Field(default=0.0, ge=-5, le=5)
    """Liking for a hedge or a disclaimer."""
    refusal: float = Field(default=0.0, ge=-5, le=5)
    """Liking for a refusal, whatever was asked."""
    temperature: float = Field(default=0.5, gt=0)
    """Randomness of the comparison, in units of gold; small is decisive."""
    flip: float = Field(default=0.03, ge=0, lt=0.5)
    """Probability of writing down the wrong side."""

    def bias(self, reading: Reading) -> float:
        """What the annotator adds to the truth, in units of gold."""
        acts = reading.acts
        return (
            self.length * reading.words / 10
            + self.flattery * acts["flattery"]
            + self.politeness * acts["polite"]
            + self.caution * (acts["hedge"] + acts["disclaim"])
            + self.refusal * (acts["refuse"] > 0)
        )

    def probability(
        self, gold: tuple[float, float], readings: tuple[Reading, Reading], bias_strength: float, noise_strength: float
    ) -> float:
        """Probability that the first of two replies is written down as the better one.

        Args:
            gold: gold scores of both.
            readings: what both say.
            bias_strength: factor on the bias.
            noise_strength: factor on temperature and flips; 0 makes the annotator decide by what is felt alone (a tie is 1/2).
        """
        felt = self.care * (gold[0] - gold[1]) + bias_strength * (self.bias(readings[0]) - self.bias(readings[1]))
        if noise_strength == 0:
            return 0.5 + 0.5 * ((felt > 0) - (felt < 0))
        better = 0.5 * (1 + math.tanh(felt / (2 * self.temperature * noise_strength)))  # sigma, safe for large differences
        flip = min(0.5, self.flip * noise_strength)
        return (1 - flip) * better + flip * (1 - better)


ANNOTATORS: tuple[Annotator, ...] = (
    Annotator(name="hurried", length=0.7, flattery=0.15, politeness=0.1, caution=0.1),
    Annotator(name="charmed", length=0.2, flattery=0.7, politeness=0.4, caution=0.1),
    Annotator(name="careful", length=0.2, flattery=0.15, politeness=0.1, caution=0.5),
)
"""The default annotators: one takes long for thorough, one likes to be flattered, one likes caution."""


def compare(probability: float, key: Key) -> bool:
    """Whether the first reply wins, drawn with its probability."""
    return bool(key.generator().random() < probability)
