"""Replies of policies for an examination: sampled and scored.

What the tables mean is the business of `trueup.mismatch.reward_model.samples`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from trueup.core.errors import UserError
from trueup.core.record import Decoding
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Prompt, Reply
from trueup.data.turns import conversation
from trueup.mismatch.features import PREFIX, features
from trueup.mismatch.reward_model.samples import checked_samples
from trueup.models.policy import load_policy
from trueup.models.reward import RewardModel
from trueup.pipeline.sampling import replies_of, write
from trueup.rewards.learned import LearnedReward

TEXTS = ("policy", "prompt_id", "sample", "prompt", "reply")


def sample_policies(paths: Mapping[str, str], prompts: Sequence[Prompt], samples: int, decoding: Decoding, key: Key) -> pd.DataFrame:
    """Replies of policies to the same prompts, with their named features; one row a reply, not scored yet.

    Args:
        paths: ``reference`` and ``policy``, or one of them -> folder or hub name.
        prompts: with distinct ids.
        samples: replies K of each policy to each prompt.
        decoding: how they are sampled.
        key: random stream; the same for all policies.

    Raises:
        UserError: a policy cannot be loaded, or a prompt leaves no room for a reply.
    """
    parts = []
    for name, path in paths.items():
        asked, replies = replies_of(write(load_policy(path), prompts, decoding, key / "samples", samples=samples))
        parts.append(
            pd.DataFrame(
                {
                    "policy": name,
                    "prompt_id": [p.id for p in asked],
                    "sample": np.tile(np.arange(samples), len(prompts)),
                    "prompt": [_stored(p.text) for p in asked],
                    "reply": [r.text for r in replies],
                    "finished": [r.finished for r in replies],
                }
            )
        )
    return with_features(pd.concat(parts, ignore_index=True))


def with_features(table: pd.DataFrame) -> pd.DataFrame:
    """The table with counts of named features of its replies, where it has texts and no features yet."""
    if "reply" not in table or any(str(c).startswith(PREFIX) for c in table.columns):
        return table
    counts = pd.DataFrame([features(str(r)) for r in table["reply"]], index=table.index).add_prefix(PREFIX)
    return pd.concat([table, counts], axis=1)


def score_samples(models: Mapping[str, RewardModel], table: pd.DataFrame, where: str | None = None) -> pd.DataFrame:
    """The table of samples: the replies of ``table``, each scored by every model.

    Args:
        models: by name.
        table: with the columns ``policy``, ``prompt_id``, ``sample``, ``prompt``, ``reply``; scores it may have are left out.
        where: its file, for messages.

    Raises:
        UserError: a text is missing.
    """
    lacking = [c for c in TEXTS if c not in table.columns]
    if lacking:
        raise UserError(
            f"lacks the column '{lacking[0]}'. For models to score them, samples need {', '.join(TEXTS)}; or use --scores.", where=where
        )
    base = with_features(table.drop(columns=["model", "score"], errors="ignore").drop_duplicates(["policy", "prompt_id", "sample"]))
    finished = base["finished"] if "finished" in base else [True] * len(base)
    prompts = [_read(str(p)) for p in base["prompt"]]
    replies = [Reply(text=str(text), finished=bool(ended)) for text, ended in zip(base["reply"], finished, strict=True)]
    parts = [base.assign(model=name, score=LearnedReward(m).raw(prompts, replies).tolist()) for name, m in models.items()]
    return checked_samples(pd.concat(parts, ignore_index=True), where)


def _stored(text: Conversation) -> str:
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)


def _read(text: str) -> Conversation:
    """A prompt as `_stored` keeps it: text, or turns as JSON."""
    if not text.startswith("[{"):
        return text
    try:
        return conversation(json.loads(text), "samples, column 'prompt'")
    except ValueError:
        return text
