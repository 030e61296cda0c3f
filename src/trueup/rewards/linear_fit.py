"""Fitting reward models that are linear in features: the penalty, the weights of an ensemble and the temperature are all chosen by folds
inside the training pairs, so that held-out pairs have no part in any choice.

Deviations:
1. Vocabulary, rarity of words and scales of blocks come from all training pairs, not from each inner fold's; labels have no part in them.
2. The temperature and the ensemble's weights are fitted to the same inner margins that the penalty was chosen by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.data.splits import folds, groups_of
from trueup.models.embeddings import Embedder
from trueup.models.feature_reward import Block, FeatureReward, Featuriser, learn_features
from trueup.models.stacked_reward import StackedReward
from trueup.stats.bootstrap import Array
from trueup.stats.recalibration import Calibration, fit_calibration
from trueup.stats.ridge import STRENGTHS, Matrix, best_scaled, fit_ridge, held_out_path
from trueup.stats.stacking import equal_weights, fitted_weights

Weighting = Literal["fitted", "equal"]


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted reward model with what its inner folds said."""

    model: FeatureReward | StackedReward
    inner: Array
    """[N] margins of the training pairs, each under weights that were fitted without its fold."""
    calibration: Calibration | None
    """Temperature fitted to ``inner``; None where no finite one fits."""
    facts: dict[str, float]
    """What was chosen: ``penalty``, or the weight of each member."""


def fit_linear(
    pairs: Sequence[Preference],
    blocks: Sequence[Block],
    key: Key,
    *,
    strengths: Sequence[float] = STRENGTHS,
    inner_folds: int = 5,
    embedder: Embedder | None = None,
    source: str | None = None,
) -> LinearFit:
    """A linear Bradley-Terry model, its penalty chosen by the log-loss of inner folds by opening turn.

    Args:
        pairs: to learn from.
        blocks: features; see `trueup.models.feature_reward.Block`.
        key: deals the folds.
        strengths: penalties to choose from.
        inner_folds: how many.
        embedder: for blocks that need one.
        source: how it was named.

    Raises:
        UserError: fewer opening turns than folds.
    """
    prompts, chosen, rejected = [p.prompt.text for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs]
    features = learn_features(blocks, prompts, chosen, rejected, embedder, source)
    x = _joined(features, pairs)
    margins = held_out_path(x, folds(groups_of(pairs), inner_folds, key), strengths)
    best = best_scaled(margins)
    weight = fit_ridge(x, strengths[best])
    inner = margins[best]
    return LinearFit(
        model=FeatureReward(features, weight),
        inner=inner,
        calibration=fit_calibration(inner, np.ones(len(inner))),
        facts={"penalty": float(strengths[best])},
    )


def fit_stack(members: Mapping[str, LinearFit], weighting: Weighting = "fitted") -> LinearFit:
    """An ensemble of models that were fitted to the same pairs with the same inner folds.

    Args:
        members: by name; none of them a stack.
        weighting: ``fitted`` minimises the log-loss of the inner margins with weights of 0 or more; ``equal`` gives each calibrated
            member the same.
    """
    margins = np.stack([m.inner for m in members.values()])
    weight = fitted_weights(margins) if weighting == "fitted" else equal_weights(margins)
    models = {name: m.model for name, m in members.items() if isinstance(m.model, FeatureReward)}
    if len(models) < len(members):
        raise ValueError("a member of a stack cannot be a stack")
    inner = weight @ margins
    return LinearFit(
        model=StackedReward(models, weight),
        inner=inner,
        calibration=fit_calibration(inner, np.ones(len(inner))),
        facts={f"weight {name}": float(w) for name, w in zip(members, weight, strict=True)},
    )


def _joined(features: Featuriser, pairs: Sequence[Preference]) -> Matrix:
    """[N, D] features of chosen minus rejected, blocks side by side; sparse where one is."""
    prompts = [p.prompt.text for p in pairs]
    sides = [features.parts(prompts, replies) for replies in ([p.chosen for p in pairs], [p.rejected for p in pairs])]
    parts = [a - b for a, b in zip(*sides, strict=True)]
    if any(sparse.issparse(p) for p in parts):
        return sparse.csr_array(sparse.hstack([sparse.csr_array(p) for p in parts], format="csr"))
    return np.concatenate(parts, 1)
