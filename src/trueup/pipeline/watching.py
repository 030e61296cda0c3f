"""What is said of an arm at each probe, and the comparisons that may stop it early.

With ``early_stop`` the replies of each probe are compared with those of the best checkpoint so far (`trueup.mismatch.stop_rule`), by the
world's annotators or by an evaluation, and the comparisons are written with the probe's records. Whether to stop is read from the records
alone, so a resumed run knows it too. Draws come from keys of their own: training takes the same steps with and without.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trueup.core.errors import UserError, did_you_mean
from trueup.core.record import Label, SampleRecord
from trueup.data.rows import Reply
from trueup.mismatch.stop_rule import StopRule, Watch, next_comparisons, watch
from trueup.pipeline.arm_config import EarlyStopConfig
from trueup.pipeline.context import Context
from trueup.store.records import frame, to_frame


def rule_of(context: Context, config: EarlyStopConfig) -> StopRule:
    """The stop rule of a run, whose number of probes is known."""
    stage = context.config.policy
    looks = 1 if stage is None else -(-stage.steps // context.config.probe.every)
    return StopRule(alpha=config.alpha, margin=config.margin, looks=looks)


def probed(context: Context, arm: str, before: int) -> pd.DataFrame:
    """Records of an arm's probes before a step, as they lie in the run; a frame without rows where there are none."""
    stage = context.config.policy
    steps = [] if stage is None else [s for s in range(before) if s % context.config.probe.every == 0]
    paths = [p for s in steps if (p := context.run.records_path(f"{arm}-{s:06d}")).exists()]
    return frame(paths) if paths else to_frame([])


def check_judge(context: Context, arm: str, config: EarlyStopConfig, records: Sequence[SampleRecord]) -> None:
    """Whether the judge answers, before any step is taken.

    Raises:
        UserError: the world has no annotators, or no evaluation of that name.
    """
    where = f"arm '{arm}', early_stop.judge"
    if config.judge != "annotators":
        known = sorted({name for r in records for name in r.evaluations})
        if config.judge not in known:
            raise UserError(
                f"no evaluation '{config.judge}' in this world.{did_you_mean(config.judge, known)} Known: {', '.join(known) or 'none'}; "
                "or 'annotators'.",
                where=where,
            )
        return
    prompts = {p.id: p for p in context.world.prompts("test")}
    one = records[0]
    reply = Reply(text=one.response, finished=bool(one.finished))
    if context.world.label(prompts[one.prompt_id], reply, reply, context.key / "early_stop") is None:
        raise UserError("this world has no annotators. Name an evaluation as the judge, or remove early_stop.", where=where)


def compared(context: Context, arm: str, config: EarlyStopConfig, records: list[SampleRecord], step: int) -> Watch:
    """The newest probe's comparisons with the best checkpoint so far, written into its records; and the run as watched so far.

    Args:
        context: the run.
        arm: name of the arm.
        config: who judges, and how many comparisons.
        records: of the newest probe, after the first one; labels are added to them.
        step: its step.
    """
    table = pd.concat([probed(context, arm, step), to_frame(records)], ignore_index=True)
    key = context.key / "early_stop" / step
    _, pairs = next_comparisons(table, arm, config.comparisons, key / "pairs")
    place = {s: i for i, s in enumerate(table["sample_id"])}
    newest = {r.sample_id: r for r in records}
    for n, (new, old) in enumerate(pairs):
        label = _judged(context, config, newest[new], table.iloc[place[old]], n, step)
        if label is not None:
            newest[new].labels.append(label)
    found = watch(pd.concat([probed(context, arm, step), to_frame(records)], ignore_index=True), arm, rule_of(context, config))
    assert found is not None
    return found


def _judged(context: Context, config: EarlyStopConfig, new: SampleRecord, old: pd.Series, n: int, step: int) -> Label | None:
    """One comparison; None where the evaluation says nothing of one of the two."""
    other = str(old["sample_id"])
    if config.judge != "annotators":
        ours, theirs = new.evaluations.get(config.judge), old.get(f"evaluations.{config.judge}", np.nan)
        if ours is None or pd.isna(theirs):
            return None
        better = float(np.sign(ours - float(theirs))) * (1 if config.higher_is_better else -1)
        return Label(annotator=f"evaluation {config.judge}", other_sample_id=other, preference=0.5 + 0.5 * better)
    prompt = next(p for p in context.world.prompts("test") if p.id == new.prompt_id)
    replies = Reply(text=new.response, finished=bool(new.finished)), Reply(text=str(old["response"]), finished=bool(old["finished"]))
    answer = context.world.label(prompt, *replies, context.key / "early_stop" / step / "label" / n)
    return None if answer is None else Label(annotator=answer[0], other_sample_id=other, preference=answer[1])


def stopped_at(context: Context, arm: str, config: EarlyStopConfig, done: int) -> int | None:
    """The step at which a resumed arm had been stopped, from its records up to ``done`` steps; None where it goes on."""
    table = probed(context, arm, done + 1)
    found = watch(table, arm, rule_of(context, config)) if len(table) else None
    return None if found is None else found.stop_step


def said(records: Sequence[SampleRecord], step: int, gold: dict[int, float], found: Watch | None) -> str:
    """One line about a probe: KL, proxy, gold where it is known, and what the comparisons say so far.

    Args:
        records: of the probe.
        step: its step.
        gold: step -> mean gold of the probes so far, this one included.
        found: the run as watched so far.
    """
    plain = [r for r in records if r.variant is None]
    parts = [f"probe at step {step}"]
    for name, value in (("kl", _mean([r.kl_policy_ref_exact_nats for r in plain])), ("proxy", _mean([r.proxy_current for r in plain]))):
        if value is not None:
            parts.append(f"{name} {value:.3g}")
    if step in gold:
        best = max(gold, key=lambda s: gold[s])
        parts.append(f"gold {gold[step]:.3g}" + ("" if best == step else f" (highest {gold[best]:.3g} at step {best})"))
    if found is not None and found.looks:
        look = found.looks[-1]
        verdict = "stop" if found.stop_step is not None else "go on"
        parts.append(
            f"{look.difference:+.0%} in {look.n} comparisons with step {look.against}, evidence {look.capital:.2g}, best so far step "
            f"{found.best_step}: {verdict}"
        )
    return ", ".join(parts)


def mean_gold(records: Sequence[SampleRecord]) -> float | None:
    """Over the plain samples; None where gold is unknown."""
    return _mean([r.gold for r in records if r.variant is None])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
