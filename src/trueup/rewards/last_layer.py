"""A reward that is careful where its last layer is unsure, against reference replies of the same prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from trueup.data.rows import Conversation, Preference, Reply
from trueup.data.tokens import Sequences
from trueup.data.turns import prompt_id
from trueup.models.embedding_reward import Embedded, EmbeddingReward
from trueup.rewards.known import known_of
from trueup.rewards.learned import Scale
from trueup.stats.bootstrap import Array
from trueup.stats.last_layer import LastLayer, best_last_layer


class LastLayerReward:
    """Lower bound of the reward difference to the mean of the prompt's reference replies.

    Args:
        model: gives frozen features; its own head is not used.
        posterior: of a linear head on them, see `fit_posterior`.
        references: prompt -> replies to compare with, such as samples of the SFT policy.
        deviations: standard deviations taken off; 0 is the posterior's mean.
        scale: the affine map to reward units; identity if left out.
    """

    def __init__(
        self,
        model: EmbeddingReward,
        posterior: LastLayer,
        references: Mapping[str, Sequence[Reply]],
        deviations: float = 1.0,
        scale: Scale | None = None,
    ) -> None:
        self.model, self.posterior, self.references, self.deviations = model, posterior, references, deviations
        self.scale = scale or Scale()
        self._known: dict[str, Array] = {}

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`.

        Raises:
            UserError: a prompt without references.
        """
        found = self.posterior.lower(self._difference(prompts, replies), self.deviations)
        return torch.from_numpy(self.scale.gain * found + self.scale.shift).float()

    def spread(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Standard deviation of the difference to the references."""
        return torch.from_numpy(self.scale.gain * np.sqrt(self.posterior.difference(self._difference(prompts, replies))[1])).float()

    def _difference(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Array:
        return vectors(self.model, prompts, replies) - np.stack([self._reference(p) for p in prompts])

    def _reference(self, prompt: Conversation) -> Array:
        key = prompt_id(prompt)
        if key not in self._known:
            replies = list(known_of(self.references, prompt, "reference reply"))
            self._known[key] = vectors(self.model, [prompt] * len(replies), replies).mean(0)
        return self._known[key]


def fit_posterior(model: EmbeddingReward, pairs: Sequence[Preference]) -> LastLayer:
    """The posterior of a linear head on the model's features, its prior chosen by evidence."""
    prompts = [p.prompt.text for p in pairs]
    chosen, rejected = (vectors(model, prompts, r) for r in ([p.chosen for p in pairs], [p.rejected for p in pairs]))
    return best_last_layer(chosen - rejected)


def vectors(model: EmbeddingReward, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Array:
    """[B, D] frozen features."""
    features = model.encode(prompts, replies)
    assert isinstance(features, Embedded)
    return features.vectors.double().numpy()
