"""What training data add to an examination: how near they are to a policy's texts, and how accuracy grows with their labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from accelerate import Accelerator
from torch import nn

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.rendering import plain_text
from trueup.data.rows import Conversation, Judged
from trueup.data.splits import folds, groups_of, rest_of
from trueup.learn.table import Examples
from trueup.loop.train import train
from trueup.models.embedding_reward import EmbeddingReward, new_embedding_reward
from trueup.models.embeddings import Embedder, Vectors
from trueup.models.reward import RewardModel
from trueup.pipeline.config import RewardStageConfig
from trueup.rewards.fit import RewardLearner
from trueup.rewards.learned import LearnedReward
from trueup.stats.bootstrap import Array

MOST_TEXTS = 4000
"""Training texts that are embedded; more are drawn from at random, which moves all distances and their unit alike."""
COVERED = 0.95
"""Share of the training texts that are within distance 1 of another one, by the choice of the unit."""
SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the labels, in a learning curve."""
PARTS = 5
"""That its prompts are divided into; each is held out once."""
_CHUNK = 1024


def with_distances(samples: pd.DataFrame, training: Sequence[Judged], embedder: Embedder, key: Key) -> pd.DataFrame:
    """The samples with ``context_distance`` and ``output_distance``; see `trueup.mismatch.reward_model.samples`.

    Args:
        samples: with the columns ``prompt`` and ``reply``.
        training: what the reward model learned from.
        embedder: sentence embeddings; distances are cosine distances.
        key: draws texts where there are too many.

    Raises:
        UserError: fewer than two different prompts or replies to compare with, or samples without texts.
    """
    if not {"prompt", "reply"} <= set(samples.columns):
        raise UserError("samples without the columns 'prompt' and 'reply' have no distance to training data.", where="--training-data")
    contexts = [_context(g.prompt.text) for g in training]
    outputs = [r.text for g in training for r in g.replies]
    found = samples.copy()
    for column, given, known in (("context_distance", "prompt", contexts), ("output_distance", "reply", outputs)):
        found[column] = distances(found[given].astype(str).tolist(), known, embedder, key / column)
    return found


def distances(texts: Sequence[str], known: Sequence[str], embedder: Embedder, key: Key) -> Array:
    """[N] cosine distance of each text to its nearest known one, in units within which 95 % of the known ones have another.

    Raises:
        UserError: fewer than two different known texts.
    """
    distinct = sorted(set(known))
    if len(distinct) < 2:
        raise UserError("fewer than two different texts are known, so nothing is near or far.", where="--training-data")
    if len(distinct) > MOST_TEXTS:
        distinct = [distinct[int(i)] for i in np.sort(key.choice(range(len(distinct)), MOST_TEXTS))]
    base = embedder.embed(distinct)
    unit = float(np.quantile(_nearest(base, base, other=True), COVERED))
    asked = sorted(set(texts))
    near = dict(zip(asked, _nearest(embedder.embed(asked), base, other=False), strict=True))
    # training texts that are all but equal leave no unit; then only equal texts are covered
    return np.array([near[t] for t in texts]) / max(unit, 1e-6)


def _nearest(vectors: Vectors, base: Vectors, *, other: bool) -> Array:
    """[N] distance to the nearest of ``base``; ``other`` leaves out the row itself."""
    out = np.empty(len(vectors))
    for start in range(0, len(vectors), _CHUNK):
        likeness = vectors[start : start + _CHUNK] @ base.T
        if other:
            likeness[np.arange(len(likeness)), start + np.arange(len(likeness))] = -np.inf
        out[start : start + _CHUNK] = 1 - likeness.max(axis=1)
    return np.maximum(out, 0.0)


def _context(text: Conversation) -> str:
    return text if isinstance(text, str) else plain_text(text, "").strip()


Refit = Callable[[Sequence[Judged], Key], Callable[[Sequence[Judged]], Sequence[float]]]
"""Groups of two to learn from -> a function that gives the score difference, first less second, of others."""


def learning_curve(
    groups: Sequence[Judged], refit: Refit, key: Key, *, shares: Sequence[float] = SHARES, parts: int = PARTS
) -> pd.DataFrame:
    """Held-out judgements of a reward model that is fitted again to growing shares of its labels.

    Every share is fitted and judged ``parts`` times, each on the opening turns of another part; a smaller share of a part's training
    turns lies within every larger one, so that the curve compares like with like.

    Args:
        groups: judged replies; groups of two that are no tie count.
        refit: fits a model to groups and gives its judgement of others.
        key: random stream.
        shares: of the training turns, each above 0 and at most 1.
        parts: that the turns are divided into.

    Returns:
        the table that `trueup.mismatch.reward_model.labels` reads, less its column ``model``.

    Raises:
        UserError: too few pairs for two labels in the smallest share, or fewer turns than parts.
    """
    pairs = [g for g in groups if len(g.replies) == 2 and g.ratings[0] != g.ratings[1]]
    turns = groups_of(pairs)
    if len(set(turns)) * min(shares) * (1 - 1 / parts) < 2:
        raise UserError(
            f"{len(pairs)} judged pairs of {len(set(turns))} prompts are too few for a learning curve.", where="--training-data"
        )
    rows = []
    for share in sorted(shares):
        right, fitted = np.full(len(pairs), np.nan), []
        for part, held in enumerate(folds(turns, parts, key / "parts")):
            rest = rest_of(held, len(pairs))
            place = _places([turns[int(i)] for i in rest], key / "order" / part)
            kept = [pairs[int(i)] for i, p in zip(rest, place, strict=True) if p < share]
            asked = [pairs[int(i)] for i in held]
            gap = np.array(refit(kept, key / "fit" / part)(asked)) * np.array([g.ratings[0] - g.ratings[1] for g in asked])
            right[held] = (np.sign(gap) + 1) / 2
            fitted.append(len(kept))
        rows.append(pd.DataFrame({"share": share, "labels": round(float(np.mean(fitted))), "prompt_id": turns, "right": right}))
    return pd.concat(rows, ignore_index=True)


def refit_head(model: RewardModel, settings: RewardStageConfig) -> Refit:
    """How a head on frozen embeddings is fitted again: a fresh head of the same shape, with the settings of a reward stage.

    Raises:
        UserError: a model of another kind, whose weights before training are not known.
    """
    if not isinstance(model, EmbeddingReward):
        raise UserError(
            "a learning curve fits the model again, and only heads on frozen embeddings can start afresh: of other models the weights "
            "before training are not known. Leave --learning-curve out.",
            where="--learning-curve",
        )

    def refit(groups: Sequence[Judged], key: Key) -> Callable[[Sequence[Judged]], Sequence[float]]:
        first = model.head[0]
        width = first.out_features if len(model.head) > 1 and isinstance(first, nn.Linear) else 0
        made = new_embedding_reward(
            model.embedder, key / "head", hidden_size=width, features=model.features, outputs=settings.objective.outputs
        )
        size = min(settings.batch_size, len(groups))
        steps = math.ceil(len(groups) * settings.epochs / settings.batch_size)

        def batch_of(step: int) -> Examples[Judged]:
            return Examples.of(groups, epoch_rows(key / "data", len(groups), size, step))

        learner = RewardLearner(settings.objective, made)
        for _ in train(learner, batch_of, steps=steps, config=settings.loop, key=key, accelerator=Accelerator(cpu=True)):
            pass
        return lambda asked: _gaps(made, asked)

    return refit


def _gaps(model: RewardModel, groups: Sequence[Judged]) -> list[float]:
    """Score of the first reply less that of the second."""
    texts, reward = [g.prompt.text for g in groups], LearnedReward(model)
    first, second = (reward.raw(texts, [g.replies[side] for g in groups]) for side in (0, 1))
    gap: list[float] = (first - second).tolist()
    return gap


def _places(turns: Sequence[str], key: Key) -> Array:
    """[N] the place of each row's turn in a random order of turns, from 0 up to but not including 1."""
    codes, names = pd.factorize(np.asarray(turns), sort=True)
    place = np.empty(len(names))
    place[key.permutation(len(names))] = np.arange(len(names)) / len(names)
    return np.asarray(place[codes])
