"""Whether two reward models are linearly connected: accuracy along the straight line between their weights (WARM, Ramé et al. 2024,
arXiv:2401.12187, observation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trueup.data.rows import Preference
from trueup.models.merge import average_states
from trueup.models.reward import RewardModel


@dataclass(frozen=True, kw_only=True)
class Path:
    """Accuracy along the line."""

    share: tuple[float, ...]
    """Weight of the second model."""
    accuracy: tuple[float, ...]
    """Of the model with averaged weights; ties as half."""
    interpolated: tuple[float, ...]
    """The same mixture of the two ends' accuracies, which connected models do not fall below."""

    @property
    def gap(self) -> float:
        """Largest fall of accuracy below the interpolated one; 0 or less where the models are connected."""
        return max(b - a for a, b in zip(self.accuracy, self.interpolated, strict=True))


@torch.no_grad()
def linear_path(
    first: RewardModel, second: RewardModel, pairs: Sequence[Preference], shares: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)
) -> Path:
    """Measure it. The first model's weights are put back afterwards.

    Args:
        first: one end.
        second: the other, of the same architecture; it may not share the first's modules.
        pairs: held-out pairs.
        shares: weights of the second model.

    Raises:
        UserError: the architectures differ.
    """
    ends = [{k: v.clone() for k, v in m.module.state_dict().items()} for m in (first, second)]
    prompts = [p.prompt.text for p in pairs]
    chosen, rejected = (first.encode(prompts, r) for r in ([p.chosen for p in pairs], [p.rejected for p in pairs]))

    def accuracy(share: float) -> float:
        first.module.load_state_dict(average_states(ends, [1 - share, share]))
        gap = first.score(chosen) - first.score(rejected)
        return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())

    try:
        found = [accuracy(s) for s in shares]
        low, high = accuracy(0.0), accuracy(1.0)
    finally:
        first.module.load_state_dict(ends[0])
    return Path(share=tuple(shares), accuracy=tuple(found), interpolated=tuple((1 - s) * low + s * high for s in shares))
