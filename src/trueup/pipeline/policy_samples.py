"""Replies of policies for an examination: sampled, scored, measured against the training data, chosen for labels.

What the tables mean is the business of `trueup.mismatch.reward_model.samples`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueup.core.errors import UserError
from trueup.core.record import Decoding
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Prompt, Reply
from trueup.data.source import read_rows
from trueup.data.turns import conversation
from trueup.mismatch.features import PREFIX, features
from trueup.mismatch.reward_model.gains import BETA, choose_comparisons
from trueup.mismatch.reward_model.samples import REFERENCE, REQUIRED, checked_comparisons, checked_samples, grid_of
from trueup.models.policy import load_policy
from trueup.models.reward import RewardModel
from trueup.pipeline.sampling import replies_of, write
from trueup.rewards.learned import LearnedReward
from trueup.stats.tilting import standardised

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


def read_table(path: str | Path) -> pd.DataFrame:
    """Rows of a file of any format that rows are read from.

    Raises:
        UserError: missing, damaged or empty file.
    """
    rows = [row.values for row in read_rows(path)]
    if not rows:
        raise UserError("holds no rows.", where=str(path))
    return pd.DataFrame(rows)


def read_samples(path: str | Path, models: Sequence[str]) -> pd.DataFrame:
    """Scored samples from a file, of the models that are examined.

    Raises:
        UserError: a table that cannot be read, or that lacks one of the models.
    """
    table = read_table(path)
    if "score" not in table and {"prompt", "reply"} <= set(table.columns):
        raise UserError(
            f"holds texts, no scores. Give --reward-model to score them, or the columns {', '.join(REQUIRED)}.", where=str(path)
        )
    found = checked_samples(table, str(path))
    known = sorted(set(found["model"]))
    lacking = sorted(set(models) - set(known))
    if lacking:
        raise UserError(f"has no scores of model '{lacking[0]}', only of {', '.join(known)}.", where=str(path))
    return found[found["model"].isin(list(models))].reset_index(drop=True)


def read_comparisons(path: str | Path, samples: pd.DataFrame) -> pd.DataFrame:
    """Labelled comparisons from a file; see `trueup.mismatch.reward_model.samples.checked_comparisons`."""
    return checked_comparisons(read_table(path), samples, str(path))


def pairs_to_label(samples: pd.DataFrame, budget: int, key: Key, beta: float = BETA) -> list[dict[str, Any]]:
    """Pairs of reference samples to have labelled, in random order, so that any first part of them may be labelled.

    Args:
        samples: scored by all models.
        budget: pairs.
        key: random stream.
        beta: strength of the KL penalty at which models are to be told apart, standard deviations of the score a nat.

    Returns:
        rows with an empty ``outcome`` to fill in: 1 where the first reply is better, 0 where the second is, 0.5 where neither.

    Raises:
        UserError: there are no samples of the reference.
    """
    grids = [grid_of(rows, REFERENCE) for _, rows in samples.groupby("model", sort=True)]
    if not grids or min(grids[0].shape) == 0 or grids[0].shape[1] < 2:
        raise UserError("there are no two samples of the reference to a prompt. Give --reference, or more --samples.", where="--ask")
    chosen = choose_comparisons(np.stack([standardised(g.column("score")) for g in grids]), budget, key, betas=(beta,))
    first = grids[0]
    index = np.full(first.shape, -1)
    index[first.prompt, first.place] = np.arange(len(first.rows))
    rows = []
    for c in (key / "order").permutation(len(chosen.prompt)):
        a, b = (first.rows.iloc[index[chosen.prompt[c], side[c]]] for side in (chosen.first, chosen.second))
        texts = (
            {"prompt": a["prompt"], "first_reply": a["reply"], "second_reply": b["reply"]} if {"prompt", "reply"} <= set(a.index) else {}
        )
        rows.append(
            {
                "prompt_id": a["prompt_id"], "policy": REFERENCE, "first": int(a["sample"]), "second": int(b["sample"]),
                "probability": float(chosen.probability[c]), **texts, "outcome": None,
            }
        )  # fmt: skip
    return rows


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
