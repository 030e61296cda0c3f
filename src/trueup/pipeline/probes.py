"""Makes the changed copies of judged replies, and has reward models score them; see `trueup.mismatch.reward_model.probes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rendering import plain_text
from trueup.data.rows import Conversation, Judged, Reply
from trueup.evaluation.copies import Copy, ProbeSettings, copies, sample
from trueup.evaluation.perturbations import appended
from trueup.evaluation.suffix_search import search
from trueup.mismatch.reward_model.probes import checked_probes
from trueup.models.reward import RewardModel
from trueup.rewards.learned import LearnedReward

AT_ONCE = 64
"""Texts scored together; like lengths together, so that padding is small."""
COMPANY = 3
"""Longer texts that keep a reply company."""


def probe_models(
    models: Mapping[str, RewardModel], groups: Sequence[Judged], scores: pd.DataFrame, key: Key, settings: ProbeSettings | None = None
) -> pd.DataFrame:
    """The table of probes of reward models; every model gets the same copies and the same searched words.

    Args:
        models: by name.
        groups: judged replies, with distinct ids.
        scores: their checked table of scores.
        key: random stream of samples and copies.
        settings: how much.
    """
    settings = settings or ProbeSettings()
    made = copies(groups, settings, key)
    parts = []
    for name, model in models.items():
        raw = RawScores(model)
        rows = [*_table(made, groups, raw), *_company(groups, settings, key, raw), *_search(groups, settings, key, raw)]
        parts.append(pd.DataFrame(rows).assign(model=name))
    found = pd.concat(parts, ignore_index=True)
    return checked_probes(found[np.isfinite(found["score"]) & np.isfinite(found["original"])], scores)


class RawScores:
    """Raw scores of texts: each text once, like lengths together.

    Args:
        model: to ask.
    """

    def __init__(self, model: RewardModel) -> None:
        self.reward = LearnedReward(model)

    def __call__(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> NDArray[np.float64]:
        """[B] scores; NaN for copies that no longer fit the model's context."""
        texts = [(plain_text(p, r.text), r.finished) for p, r in zip(prompts, replies, strict=True)]
        place = {t: i for i, t in reversed(list(enumerate(texts)))}
        order = sorted(place.values(), key=lambda i: len(texts[i][0]))
        found = np.full(len(texts), np.nan)
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            found[part] = self.batch([prompts[i] for i in part], [replies[i] for i in part])
        return found[[place[t] for t in texts]]

    def batch(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> NDArray[np.float64]:
        """[B] scores of one batch, in this order."""
        try:
            return np.asarray(self.reward.raw(prompts, replies).double().cpu().numpy())
        except UserError:
            if len(prompts) == 1:
                return np.full(1, np.nan)
            return np.concatenate([self.batch([p], [r]) for p, r in zip(prompts, replies, strict=True)])


def _table(made: Sequence[Copy], groups: Sequence[Judged], raw: RawScores) -> list[dict[str, object]]:
    """Rows of the copies; originals are scored in the same call."""
    places = list(dict.fromkeys((c.item, c.reply) for c in made))
    prompts = [groups[i].prompt.text for i, _ in places] + [c.prompt for c in made]
    found = raw(prompts, [groups[i].replies[j] for i, j in places] + [c.text for c in made])
    original = dict(zip(places, found[: len(places)], strict=True))
    return [
        _row(groups, c.item, c.reply, c.probe, c.variant, score, original[c.item, c.reply], c.cluster, c.note)
        for c, score in zip(made, found[len(places) :], strict=True)
    ]


def _company(groups: Sequence[Judged], settings: ProbeSettings, key: Key, raw: RawScores) -> list[dict[str, object]]:
    """Each reply alone, then as the first and the last of a batch of the longest texts of the sample."""
    rows = _replies(groups, sample(groups, settings.company_replies, key / "sample"))
    longest = sorted(rows, key=lambda r: -len(plain_text(groups[r[0]].prompt.text, groups[r[0]].replies[r[1]].text)))[: COMPANY + 1]
    found = []
    for i, j in rows:
        others = [r for r in longest if r != (i, j)][:COMPANY]
        alone = raw.batch(*_columns(_added(groups, [(i, j)], "")))[0]
        for variant, batch, at in (("first", [(i, j), *others], 0), ("last", [*others, (i, j)], -1)):
            found.append(_row(groups, i, j, "company", variant, raw.batch(*_columns(_added(groups, batch, "")))[at], alone))
    return found


def _search(groups: Sequence[Judged], settings: ProbeSettings, key: Key, raw: RawScores) -> list[dict[str, object]]:
    """A text is searched for on some replies and judged on the replies to other prompts."""
    rows = sample(groups, settings.replies, key / "sample")
    prompts = list(dict.fromkeys(groups[i].prompt.id for i in rows))
    tries = settings.search_texts // settings.search_replies
    if not tries or len(prompts) < 2:
        return []
    seen = set(prompts[: max(1, min(settings.search_replies, len(prompts) // 2))])
    on = [r for r in _replies(groups, rows) if groups[r[0]].prompt.id in seen][: settings.search_replies]
    held = [r for r in _replies(groups, rows) if groups[r[0]].prompt.id not in seen]
    words = sorted({w for g in groups for r in g.replies for w in r.text.split()})
    start = _with(groups, on, "", raw)

    def gain(texts: Sequence[str]) -> NDArray[np.float64]:
        scored = raw(*_columns([row for t in texts for row in _added(groups, on, t)])).reshape(len(texts), -1)
        return np.nan_to_num((scored - start).mean(axis=1), nan=-np.inf)

    found = search(gain, words, key / "search", length=settings.search_words, tries=tries)
    original, rows_made = _with(groups, held, "", raw), []
    for variant, text in (("found", found.best), ("random", found.random)):
        scores = _with(groups, held, text, raw)
        rows_made += [_row(groups, i, j, "search", variant, s, o, note=text) for (i, j), s, o in zip(held, scores, original, strict=True)]
    return rows_made


def _replies(groups: Sequence[Judged], rows: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, j) for i in rows for j in range(len(groups[i].replies))]


def _added(groups: Sequence[Judged], rows: Sequence[tuple[int, int]], text: str) -> list[tuple[Conversation, Reply]]:
    replies = [groups[i].replies[j] for i, j in rows]
    made = [Reply(text=appended(r.text, text), finished=r.finished) if text else r for r in replies]
    return [(groups[i].prompt.text, r) for (i, _), r in zip(rows, made, strict=True)]


def _columns(rows: Sequence[tuple[Conversation, Reply]]) -> tuple[list[Conversation], list[Reply]]:
    return [p for p, _ in rows], [r for _, r in rows]


def _with(groups: Sequence[Judged], rows: Sequence[tuple[int, int]], text: str, raw: RawScores) -> NDArray[np.float64]:
    return raw(*_columns(_added(groups, rows, text)))


def _row(
    groups: Sequence[Judged], item: int, reply: int, probe: str, variant: str, score: float, original: float, cluster: str = "",
    note: str = "",
) -> dict[str, object]:  # fmt: skip
    group = groups[item]
    return {
        "item": group.id, "prompt_id": group.prompt.id, "reply": reply, "probe": probe, "variant": variant, "score": float(score),
        "original": float(original), "cluster": cluster or group.prompt.id, "note": note,
    }  # fmt: skip
