"""What the policy learned to say: phrases whose share of replies grew most over training, and what they are worth.

Growth is the log-odds ratio of "a reply contains the phrase" between the last and the first checkpoint, shrunk by an informative
Dirichlet prior and divided by its standard error (Monroe, Colaresi & Quinn 2008, "Fightin' Words", eq. 16-22, here with replies in
place of tokens, so that one reply that repeats itself counts once). What a phrase is worth is a contrast within prompt and
checkpoint, so that neither the drift of training nor the choice of prompts can make it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.stats.estimate import Estimate

MAX_WORDS = 4
PRIOR_REPLIES = 10.0
"""Weight of the prior: as many replies as this, with the phrase's share in both checkpoints together."""
MIN_REPLIES = 5
"""A phrase must occur in this many replies of the last checkpoint."""
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")
_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One phrase the policy took up."""

    text: str
    first: int
    """Replies of the first checkpoint that contain it, of ``first_n``."""
    first_n: int
    last: int
    last_n: int
    log_odds: float
    """Shrunk log-odds ratio, last against first; natural logarithm."""
    z: float
    """``log_odds`` over its standard error if replies were independent: an order, not a test."""
    proxy: Estimate
    """Mean `proxy_fixed` with the phrase minus without it, same prompt and checkpoint."""
    gold: Estimate
    """The same for gold."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def tokens(text: str) -> list[str]:
    """Words in lower case and runs of punctuation, in order."""
    return _TOKEN.findall(text.lower())


def phrases(text: str) -> set[tuple[str, ...]]:
    """All phrases of a reply: 1 to 4 neighbouring words; punctuation stands alone and ends a phrase."""
    found: set[tuple[str, ...]] = set()
    run: list[str] = []
    for token in [*tokens(text), ""]:
        if token and (token[0].isalnum() or token[0] == "_"):
            run.append(token)
            continue
        for n in range(1, MAX_WORDS + 1):
            found.update(tuple(run[i : i + n]) for i in range(len(run) - n + 1))
        run = []
        if token:
            found.add((token,))
    return found


def log_odds(last: int, last_n: int, first: int, first_n: int) -> tuple[float, float]:
    """Shrunk log-odds ratio that a reply contains a phrase, last against first, and its z.

    Args:
        last, first: replies with the phrase.
        last_n, first_n: replies in all.
    """
    prior = PRIOR_REPLIES * (last + first + 0.5) / (last_n + first_n + 1.0)
    rest = PRIOR_REPLIES - prior
    cells = (last + prior, last_n - last + rest, first + prior, first_n - first + rest)
    value = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    return value, value / math.sqrt(sum(1.0 / c for c in cells))


def within_contrast(
    present: NDArray[np.bool_], value: pd.Series, group: NDArray[np.int64], cluster: NDArray[np.int64], name: str, unit: str
) -> Estimate:
    """Mean of ``value`` with the phrase minus without it, compared inside groups only.

    The slope of ``value`` on presence after both are centred in their group; interval from the sandwich variance clustered by
    prompt (Liang & Zeger 1986), normal quantiles.

    Args:
        present: [N], the reply contains the phrase.
        value: [N], NaN where unknown; such rows are left out and counted.
        group: [N], number of the group (prompt and checkpoint).
        cluster: [N], number of the prompt.
        name: of the estimate.
        unit: of ``value``.
    """
    known = value.notna().to_numpy()
    y, x, g, c = value.to_numpy(dtype=float)[known], present[known].astype(float), group[known], cluster[known]
    missing = int((~known).sum())
    if y.size == 0:
        return Estimate(name=name, value=None, low=None, high=None, n=0, unit=unit, n_missing=missing)
    size = np.maximum(np.bincount(g), 1)
    x = x - (np.bincount(g, x) / size)[g]
    y = y - (np.bincount(g, y) / size)[g]
    varied = np.bincount(c, x * x) > 1e-12
    n, total = int(varied.sum()), float((x * x).sum())
    if n == 0:
        return Estimate(name=name, value=None, low=None, high=None, n=0, unit=unit, n_missing=missing)
    slope = float((x * y).sum() / total)
    low = high = None
    if n > 1:
        scores = np.bincount(c, x * (y - slope * x))
        half = _Z95 * math.sqrt(float((scores**2).sum()) * n / (n - 1)) / total
        low, high = slope - half, slope + half
    return Estimate(
        name=name,
        value=slope,
        low=low,
        high=high,
        n=n,
        unit=unit,
        method="within prompt and checkpoint, clustered by prompt",
        n_missing=missing,
    )


def learned_phrases(rows: pd.DataFrame, *, top: int = 12) -> list[Phrase]:
    """The phrases that grew most from an arm's first to its last checkpoint, most certain growth first.

    Args:
        rows: checkpoint rows of one arm (columns ``step, prompt_id, response, proxy_fixed, gold``).
        top: how many.
    """
    steps = sorted(rows["step"].unique())
    if len(steps) < 2:
        return []
    before = [phrases(t) for t in rows.loc[rows["step"] == steps[0], "response"]]
    after = [phrases(t) for t in rows.loc[rows["step"] == steps[-1], "response"]]
    chosen = _distinct(_ranked(_counts(before), len(before), _counts(after), len(after)), top)
    if not chosen:
        return []
    texts = [_padded(t) for t in rows["response"]]
    cluster = pd.factorize(rows["prompt_id"])[0].astype(np.int64)
    group = rows.groupby(["step", "prompt_id"], sort=True).ngroup().to_numpy(dtype=np.int64)
    out = []
    for words, first, last, value, z in chosen:
        needle = _needle(words)
        present = np.fromiter((needle in t for t in texts), dtype=bool, count=len(texts))
        worth = {k: within_contrast(present, rows[c], group, cluster, k, "score") for k, c in (("proxy", "proxy_fixed"), ("gold", "gold"))}
        out.append(
            Phrase(
                text=" ".join(words),
                first=first,
                first_n=len(before),
                last=last,
                last_n=len(after),
                log_odds=value,
                z=z,
                proxy=worth["proxy"],
                gold=worth["gold"],
            )
        )
    return out


Ranked = tuple[tuple[str, ...], int, int, float, float]


def _counts(sets: Iterable[set[tuple[str, ...]]]) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for found in sets:
        counts.update(found)
    return counts


def _ranked(before: Counter[tuple[str, ...]], n_before: int, after: Counter[tuple[str, ...]], n_after: int) -> list[Ranked]:
    rows = []
    for words, last in after.items():
        if last < MIN_REPLIES or last / n_after <= before[words] / n_before:
            continue
        value, z = log_odds(last, n_after, before[words], n_before)
        if z > _Z95:
            rows.append((words, before[words], last, value, z))
    return sorted(rows, key=lambda r: (-r[4], -len(r[0]), r[0]))


def _distinct(ranked: Sequence[Ranked], top: int) -> list[Ranked]:
    """The best phrases without their fragments: a part gives way to the longer phrase that accounts for most of its replies."""
    count = {r[0]: r[2] for r in ranked}
    explained = {part for words, last in count.items() for part in _parts(words) if part in count and last >= 0.8 * count[part]}
    chosen: list[Ranked] = []
    for row in ranked:
        if row[0] in explained or any(_overlap(row, c) for c in chosen):
            continue
        chosen.append(row)
        if len(chosen) == top:
            break
    return chosen


def _parts(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[i : i + n] for n in range(1, len(words)) for i in range(len(words) - n + 1)}


def _overlap(a: Ranked, b: Ranked) -> bool:
    """Whether two phrases are mostly the same words, or share some and always come together: windows on one longer phrase."""
    shared = len(set(a[0]) & set(b[0]))
    return shared >= 0.75 * min(len(set(a[0])), len(set(b[0]))) or (shared > 0 and a[1:3] == b[1:3])


def _padded(text: str) -> str:
    """The reply's tokens with a mark between them, so that a phrase is found by plain search and never across punctuation."""
    return "\x1f" + "\x1f".join(tokens(text)) + "\x1f"


def _needle(words: tuple[str, ...]) -> str:
    return "\x1f" + "\x1f".join(words) + "\x1f"
