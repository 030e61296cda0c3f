"""Next-token loss: is a policy that finds demonstrations likelier a better one (Lambert & Calandra 2023, arXiv:2311.00168, section 4.2)?

The loss is that of demonstrations under each checkpoint (nats a token, end-of-sequence included), resampled by prompt; gold is of the
checkpoint's own test replies. Optimising a reward raises the loss, which is no harm by itself. It is one where the checkpoint of least
loss also has more gold than the last: whoever had kept it by its loss would have kept the better policy.

Needs rows of the variant ``demonstration`` with ``logp_policy_nats`` and ``n_tokens``.

Series, one entry a checkpoint with demonstrations: ``step``; ``loss`` with ``_low`` and ``_high``; ``gold`` with ``_low`` and ``_high``;
``preference``: Spearman correlation, over demonstrations, of mean log-probability a token and the demonstration's own gold.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.panel import METHOD, Cells, Panel, curve_columns, numbers, panel_of
from trueup.stats import rank, serial
from trueup.stats.bootstrap import DRAWS, Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate

NAME = "next_token_loss"
QUESTION = "Does the next-token loss on demonstrations say which checkpoint is better?"


class NextTokenLoss(Config):
    """Thresholds of the next-token-loss diagnosis."""

    variant: str = "demonstration"
    """Variant of the rows that hold demonstrations."""
    min_demonstrations: int = Field(default=20, ge=3)
    """Fewer demonstrations at a checkpoint are not enough data."""
    min_checkpoints: int = Field(default=2, ge=2)
    """Fewer checkpoints with demonstrations and gold are not enough data."""
    min_harm: float = Field(default=0.05, ge=0)
    """A smaller difference in gold, in within-prompt standard deviations at the first checkpoint, raises no alarm."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def diagnose(records: pd.DataFrame, arm: str, settings: NextTokenLoss, key: Key) -> Diagnosis:
    """Loss and gold along checkpoints; alarm when the checkpoint of least loss has more gold than the last one.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    gold = panel.column_cells("gold") if panel else None
    shown_to = None if panel is None else _demonstrations(records, panel, settings)
    if panel is None or gold is None or shown_to is None:
        why = (
            f"gold, and rows of variant '{settings.variant}' with logp_policy_nats and n_tokens ({settings.min_demonstrations} at each of "
            f"{settings.min_checkpoints} checkpoints), are needed; a probe writes them with `variants: [demonstration]`"
        )
        return not_enough("policy_evaluation", NAME, QUESTION, arm, why)
    at, loss, rows = shown_to
    lossy = cluster_weights(len(loss.counts), settings.draws, key / "demonstrations")
    weights = panel.weights(key / "prompts", settings.draws)
    losses, loss_draws = loss.mean(), loss.resampled(lossy)
    golds, gold_draws = gold.mean()[at], gold.resampled(weights)[:, at]
    least = int(np.argmin(losses))
    n = int(gold.prompts()[at].min())
    drop = make_estimate(
        "gold_of_least_loss_minus_last",
        float(golds[least] - golds[-1]),
        gold_draws[:, least] - gold_draws[:, -1],
        n,
        "score",
        method=METHOD,
    )
    rise = make_estimate(
        "loss_rise", float(losses[-1] - losses[0]), loss_draws[:, -1] - loss_draws[:, 0], len(loss.counts), "nats/token",
        method="bootstrap over the demonstrations' prompts",
    )  # fmt: skip
    size = settings.min_harm * _spread(panel, gold)
    alarm = drop.low is not None and drop.low > 0 and (drop.value or 0.0) >= size
    along = [_along(which, a, b) for which, a, b in (("levels", losses, golds), ("differences", np.diff(losses), np.diff(golds)))]
    steps = panel.steps[at]
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if alarm else "quiet",
        rule=(
            f"Alarm when the checkpoint at which demonstrations have the least next-token loss has more gold than the last one (interval "
            f"above 0, at least {size:.3g}: {settings.min_harm:g} of gold's deviation within prompts): step {steps[least]} against "
            f"{steps[-1]}, {shown(drop)}. The loss rose by {shown(rise)} nats a token. Spearman of loss and gold on levels "
            f"{shown(along[0])}, on first differences {shown(along[1])}."
        ),
        estimates=(drop, rise, *along),
        series={
            "step": steps.tolist(),
            **curve_columns("loss", losses, loss_draws, len(loss.counts)),
            **curve_columns("gold", golds, gold_draws, n),
            "preference": [_preference(rows[rows["step"] == s]) for s in steps],
        },
        samples=_likeliest_bad(rows[rows["step"] == steps[-1]]),
    )


def _demonstrations(records: pd.DataFrame, panel: Panel, settings: NextTokenLoss) -> tuple[NDArray[np.int64], Cells, pd.DataFrame] | None:
    """Positions of the steps that have demonstrations, their loss as prompts x those steps (tokens are what is counted), and the rows."""
    if "variant" not in records:
        return None
    rows = records[(records["arm"] == panel.arm) & (records["variant"] == settings.variant) & records["step"].isin(panel.steps)]
    columns = [numbers(rows[c]) if c in rows else None for c in ("logp_policy_nats", "n_tokens")]
    if columns[0] is None or columns[1] is None:
        return None
    known = np.isfinite(columns[0]) & (columns[1] > 0)
    rows = rows[known].assign(_loss=-columns[0][known], _tokens=columns[1][known])
    counts = rows.groupby("step")["_loss"].size()
    steps = np.sort(counts.index[counts >= settings.min_demonstrations].to_numpy())
    if len(steps) < settings.min_checkpoints:
        return None
    rows = rows[rows["step"].isin(steps)]
    tables = [rows.pivot_table(index="prompt_id", columns="step", values=c, aggfunc="sum", fill_value=0.0) for c in ("_loss", "_tokens")]
    places = np.searchsorted(panel.steps, steps).astype(np.int64)
    return places, Cells(sums=tables[0].to_numpy(dtype=float), counts=tables[1].to_numpy(dtype=float)), rows


def _spread(panel: Panel, gold: Cells) -> float:
    """Gold's standard deviation within prompts at the first checkpoint; over all its replies where each prompt has one."""
    values = panel.column("gold")
    assert values is not None
    here = (panel.step == 0) & np.isfinite(values)
    single = gold.counts[:, 0].max() < 2
    means = np.divide(gold.sums[:, 0], gold.counts[:, 0], out=np.zeros(len(gold.counts)), where=gold.counts[:, 0] > 0)
    centred = values[here] - (values[here].mean() if single else means[panel.prompt[here]])
    freedom = here.sum() - (1 if single else int((gold.counts[:, 0] > 0).sum()))
    return float(np.sqrt((centred**2).sum() / max(freedom, 1)))


def _along(which: str, losses: Array, golds: Array) -> Estimate:
    value = float(rank.spearman(losses, golds)) if len(losses) > 2 else np.nan
    low, high = (
        (float(v) for v in serial.correlation_interval(value, losses, golds, "spearman")) if np.isfinite(value) else (np.nan, np.nan)
    )
    return Estimate(
        name=f"spearman_{which}",
        value=value if np.isfinite(value) else None,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        n=len(losses),
        method="Fisher's interval over checkpoints, as many as they are independent",
    )


def _preference(rows: pd.DataFrame) -> float | None:
    """Whether likelier demonstrations are better ones."""
    gold = numbers(rows["gold"]) if "gold" in rows else None
    if gold is None or len(rows) < 3:
        return None
    value = float(rank.spearman(-rows["_loss"].to_numpy() / rows["_tokens"].to_numpy(), gold))
    return value if np.isfinite(value) else None


def _likeliest_bad(rows: pd.DataFrame, count: int = 5) -> tuple[str, ...]:
    """Demonstrations below the median of gold that the last checkpoint finds likeliest a token."""
    gold = numbers(rows["gold"]) if "gold" in rows else None
    if gold is None:
        return ()
    bad = rows[gold < np.nanmedian(gold)]
    order = np.argsort((bad["_loss"] / bad["_tokens"]).to_numpy(), kind="stable")[:count]
    return tuple(str(s) for s in bad["sample_id"].to_numpy()[order])
