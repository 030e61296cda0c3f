"""Scores of reward models on judged replies; what they say is the business of `trueup.mismatch.reward_model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from trueup.core.errors import UserError
from trueup.data.rows import Judged
from trueup.mismatch.features import PREFIX, features
from trueup.mismatch.reward_model.ceiling import VOTES
from trueup.mismatch.reward_model.scores import checked
from trueup.models.reward import RewardModel
from trueup.rewards.learned import LearnedReward


def score_models(models: Mapping[str, RewardModel], groups: Sequence[Judged]) -> pd.DataFrame:
    """The table of scores: one row a model, item and reply.

    Args:
        models: by name.
        groups: judged replies, with distinct ids.

    Raises:
        UserError: two items of one name.
    """
    seen = pd.Series([g.id for g in groups])
    if seen.duplicated().any():
        raise UserError(f"item '{seen[seen.duplicated()].iloc[0]}' is there twice. Give every row an 'id' of its own, or none.")
    rows = [(g, j) for g in groups for j in range(len(g.replies))]
    table = pd.DataFrame(
        {
            "item": [g.id for g, _ in rows],
            "prompt_id": [g.prompt.id for g, _ in rows],
            "reply": [j for _, j in rows],
            "rating": [g.ratings[j] for g, j in rows],
            "domain": [g.domain for g, _ in rows],
            "style": [g.styles[j] if g.styles else "" for g, j in rows],
            "n_characters": [float(len(g.replies[j].text)) for g, j in rows],
        }
    )
    counts = pd.DataFrame([features(g.replies[j].text) for g, j in rows]).add_prefix(PREFIX)
    table = pd.concat([table, counts], axis=1)
    prompts, replies = [g.prompt.text for g, _ in rows], [g.replies[j] for g, j in rows]
    parts = [table.assign(model=name, score=LearnedReward(m).raw(prompts, replies).tolist()) for name, m in models.items()]
    return checked(pd.concat(parts, ignore_index=True))


def votes_of(groups: Sequence[Judged]) -> pd.DataFrame:
    """The table of votes, as `trueup.mismatch.reward_model.ceiling` reads it; empty where no group has any."""
    return pd.DataFrame([(g.id, v.annotator, v.sign) for g in groups for v in g.votes], columns=list(VOTES))
