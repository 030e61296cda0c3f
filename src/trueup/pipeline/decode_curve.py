"""The whole curve of best-of-n from replies that were sampled once (Nakano et al. 2021, arXiv:2112.09332, appendix I)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trueup.core.record import SampleRecord
from trueup.core.rng import Key
from trueup.stats.best_of_n import best_of_n, kl_nats
from trueup.stats.bootstrap import mean_estimate


def best_of_n_curve(rows: Sequence[SampleRecord], key: Key) -> list[dict[str, Any]]:
    """Reward and gold of the best of n by reward, for n = 1, 2, 4, ... up to the replies a prompt.

    Args:
        rows: plain samples, equally many to each prompt, with ``proxy_fixed``.
        key: of the bootstrap over prompts.

    Returns:
        one entry for each n: ``n``, ``kl_bound_nats``, and the estimates ``reward`` and, where it is known, ``gold``, without bias.
    """
    prompts: dict[str, list[SampleRecord]] = {}
    for row in rows:
        prompts.setdefault(row.prompt_id, []).append(row)
    groups = list(prompts.values())
    ns = [2**i for i in range(min(map(len, groups)).bit_length())]
    columns = {"reward": "proxy_fixed", "gold": "gold"}
    known = {name: column for name, column in columns.items() if all(getattr(r, column) is not None for r in rows)}
    found: list[dict[str, Any]] = [{"n": n, "kl_bound_nats": float(kl_nats(n))} for n in ns]
    for name, column in known.items():
        pairs = [np.array([[r.proxy_fixed, getattr(r, column)] for r in group], dtype=float).T for group in groups]
        table = np.array([best_of_n(proxy, value, ns) for proxy, value in pairs])
        for entry, values in zip(found, table.T, strict=True):
            # the same resamples for every n, so that the curve moves as one
            entry[name] = mean_estimate(values, np.arange(len(groups)), name, "score", key).to_dict()
    return found
