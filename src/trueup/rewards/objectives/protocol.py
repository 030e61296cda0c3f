"""What an objective is: a loss per pair of scores."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from trueup.core.config import Component


class ObjectiveConfig(Component):
    """Settings of a pairwise objective; the file's one subclass adds its own and implements `loss`."""

    @abstractmethod
    def loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """Per-pair loss.

        Args:
            chosen: [B] raw scores of the preferred replies.
            rejected: [B] raw scores of the others.
            margin: [B] stated strength of the preference; 0 where none was stated.

        Returns:
            [B] to be minimised.
        """
