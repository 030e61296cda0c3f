"""What an objective is: a loss for each group of replies to one prompt, from the model's outputs and what annotators said.

A pair is a group of two. A pairwise objective needs only `PairwiseConfig.pair_loss`; on larger groups it becomes the mean over all pairs
of a prompt (Ouyang et al. 2022, arXiv:2203.02155, section 3.5), so that every prompt counts the same however many replies it has.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.core.config import Component
from trueup.learn.table import Table

Ties = Literal["half", "drop"]


@dataclass(frozen=True, kw_only=True)
class Judgements(Table):
    """What was said of the replies of B groups; K is the size of the largest one."""

    rating: Tensor
    """[B, K] higher is better, equal is a tie; meaningless where absent."""
    present: Tensor
    """[B, K] bool, False in the padding of smaller groups."""
    margin: Tensor
    """[B] stated strength of a pair's preference, 0 where none."""
    length: Tensor
    """[B, K] length of each reply, characters."""
    row: Tensor
    """[B] int64 position of the group in its data set."""


class ObjectiveConfig(Component):
    """Settings of an objective; the file's one subclass adds its own and implements `loss` and `counted`."""

    heads: ClassVar[int] = 1
    """Numbers that the model gives a reply, the first of which is the reward; an objective that needs more says so."""

    @property
    def outputs(self) -> int:
        """H, the model's outputs: `heads`, unless a setting decides."""
        return self.heads

    @abstractmethod
    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """Per-group loss.

        Args:
            output: [B, K, H] what the model says of each reply.
            judged: what annotators said.

        Returns:
            [B] to be minimised; 0 in groups that `counted` leaves out.
        """

    @abstractmethod
    def counted(self, judged: Judgements) -> Tensor:
        """[B] bool: which groups teach this objective something; the others are left out of its mean."""

    def moments(self, output: Tensor, judged: Judgements) -> Tensor:
        """[N] float64 sums over replies that a term coupling the whole batch needs; they add over processes. Empty for most objectives."""
        return output.new_zeros(0, dtype=torch.float64)

    def coupling(self, output: Tensor, judged: Judgements, moments: Tensor) -> Tensor | None:
        """[B, K, H] gradient of the coupling term by the outputs, given the `moments` of the global batch; None without one."""
        return None

    def regulariser(self, head: Tensor) -> Tensor | None:
        """[] A term on the weights of the head, [H, W]; None without one."""
        return None


class RankingConfig(ObjectiveConfig):
    """An objective on whole groups, from two replies on; the file's one subclass implements `loss`."""

    def counted(self, judged: Judgements) -> Tensor:
        """[B] Groups of at least two replies."""
        return judged.present.sum(1) >= 2


class ComparisonConfig(ObjectiveConfig):
    """An objective on the pairs of a group, with `over_pairs`; the file's one subclass implements `loss`."""

    ties: Ties = "half"
    """Equal ratings: ``half`` a win each way, or ``drop`` the pair."""

    def counted(self, judged: Judgements) -> Tensor:
        """[B] Groups with at least one pair that is used."""
        return pairs_used(judged, self.ties).any(1)


class PairwiseConfig(ComparisonConfig):
    """An objective on pairs of scores; the file's one subclass implements `pair_loss`."""

    center_rewards_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the squared sum of a pair's scores; 0 leaves the zero of the score undetermined (TRL's name; Eisenstein et al. 2023,
    arXiv:2312.09244, eq. 2)."""

    @abstractmethod
    def pair_loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """Per-pair loss.

        Args:
            chosen: [n] raw scores of the preferred replies.
            rejected: [n] raw scores of the others.
            margin: [n] stated strength of the preference; 0 where none was stated.

        Returns:
            [n] to be minimised.
        """

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Mean of `pair_loss` and the centring term over all pairs of a group."""

        def centred(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
            a, b = chosen.squeeze(-1), rejected.squeeze(-1)
            return self.pair_loss(a, b, margin) + self.center_rewards_coefficient * (a + b) ** 2

        return over_pairs(output, judged, centred, self.ties)


def over_pairs(output: Tensor, judged: Judgements, pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor], ties: Ties) -> Tensor:
    """Mean over all pairs of each group.

    Args:
        output: [B, K, H].
        judged: ratings say which of a pair is chosen.
        pair_loss: [B, P, H] of the chosen, [B, P, H] of the rejected replies, [B, P] margins -> [B, P].
        ties: a tie is the mean of both orders, or left out.

    Returns:
        [B] 0 where a group has no pair.
    """
    i, j = _pairs(judged)
    first, second = output[:, i], output[:, j]
    ahead = judged.rating[:, i] - judged.rating[:, j]
    swap = (ahead < 0)[..., None]
    chosen, rejected = torch.where(swap, second, first), torch.where(swap, first, second)
    margin = judged.margin[:, None].expand(ahead.shape).to(output.dtype)
    value = pair_loss(chosen, rejected, margin)
    tied = ahead == 0
    if ties == "half" and bool(tied.any()):
        value = torch.where(tied, 0.5 * (value + pair_loss(rejected, chosen, margin)), value)
    used = pairs_used(judged, ties)
    return torch.where(used, value, torch.zeros_like(value)).sum(1) / used.sum(1).clamp(min=1)


def pairs_used(judged: Judgements, ties: Ties) -> Tensor:
    """[B, P] bool: pairs of present replies, ties left out if they are dropped; P = K (K - 1) / 2."""
    i, j = _pairs(judged)
    both = judged.present[:, i] & judged.present[:, j]
    return both if ties == "half" else both & (judged.rating[:, i] != judged.rating[:, j])


def _pairs(judged: Judgements) -> tuple[Tensor, Tensor]:
    size = judged.rating.shape[1]
    i, j = torch.triu_indices(size, size, 1, device=judged.rating.device)
    return i, j
