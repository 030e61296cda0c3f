"""The list of all diagnoses, their settings, and the asking of them: whoever adds one adds its module and its settings here."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import get_args

import pandas as pd

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.decision import Decision, VerdictSettings, decide
from trueup.mismatch.diagnosis import Diagnosis, Link, not_enough
from trueup.mismatch.headlines.number import HeadlineSettings
from trueup.mismatch.panel import keeping
from trueup.mismatch.policy_evaluation import (
    alignment_tax,
    checkpoint_evaluations,
    diversity,
    next_token_loss,
    positions,
    refusal_balance,
    sensitivity,
    tracking,
)
from trueup.mismatch.policy_evaluation.alignment_tax import AlignmentTax
from trueup.mismatch.policy_evaluation.checkpoint_evaluations import CheckpointEvaluations
from trueup.mismatch.policy_evaluation.diversity import Diversity
from trueup.mismatch.policy_evaluation.next_token_loss import NextTokenLoss
from trueup.mismatch.policy_evaluation.positions import Positions
from trueup.mismatch.policy_evaluation.refusal_balance import RefusalBalance
from trueup.mismatch.policy_evaluation.sensitivity import Sensitivity
from trueup.mismatch.policy_evaluation.tracking import Tracking
from trueup.mismatch.reward_evaluation import ceiling_use, consistency, implicit_reward, length, rank_transfer, style
from trueup.mismatch.reward_evaluation.ceiling_use import CeilingUse
from trueup.mismatch.reward_evaluation.consistency import Consistency
from trueup.mismatch.reward_evaluation.implicit_reward import ImplicitReward
from trueup.mismatch.reward_evaluation.length import Length
from trueup.mismatch.reward_evaluation.rank_transfer import RankTransfer
from trueup.mismatch.reward_evaluation.style import Style
from trueup.mismatch.reward_policy import (
    calibration,
    coverage,
    distribution_shift,
    exploits,
    goodhart,
    over_optimisation,
    predicted_regret,
    realignment,
    shift_by_kl,
    signal,
    tail_mismatch,
)
from trueup.mismatch.reward_policy.calibration import Calibration
from trueup.mismatch.reward_policy.coverage import Coverage
from trueup.mismatch.reward_policy.distribution_shift import DistributionShift
from trueup.mismatch.reward_policy.exploits import Exploits
from trueup.mismatch.reward_policy.goodhart import Goodhart
from trueup.mismatch.reward_policy.over_optimisation import OverOptimisation
from trueup.mismatch.reward_policy.predicted_regret import PredictedRegret
from trueup.mismatch.reward_policy.realignment import Realignment
from trueup.mismatch.reward_policy.shift_by_kl import ShiftByKl
from trueup.mismatch.reward_policy.signal import Signal
from trueup.mismatch.reward_policy.tail_mismatch import TailMismatch

DIAGNOSES: tuple[ModuleType, ...] = (
    over_optimisation,
    distribution_shift,
    shift_by_kl,
    calibration,
    goodhart,
    tail_mismatch,
    predicted_regret,
    coverage,
    signal,
    exploits,
    length,
    style,
    implicit_reward,
    consistency,
    ceiling_use,
    tracking,
    checkpoint_evaluations,
    alignment_tax,
    refusal_balance,
    diversity,
    next_token_loss,
    positions,
    sensitivity,
)
"""Asked of every arm, in the order of the report. Each has ``NAME``, ``QUESTION`` and ``diagnose(records, arm, settings, key)``; where
it also has ``READS_TEXTS``, it is not asked of an arm whose replies have no texts."""


class MismatchSettings(Config):
    """Thresholds of every diagnosis, by its name, of the decision and of the three headline numbers."""

    over_optimisation: OverOptimisation = OverOptimisation()
    distribution_shift: DistributionShift = DistributionShift()
    shift_by_kl: ShiftByKl = ShiftByKl()
    calibration: Calibration = Calibration()
    goodhart: Goodhart = Goodhart()
    tail_mismatch: TailMismatch = TailMismatch()
    predicted_regret: PredictedRegret = PredictedRegret()
    coverage: Coverage = Coverage()
    signal: Signal = Signal()
    exploits: Exploits = Exploits()
    length: Length = Length()
    style: Style = Style()
    implicit_reward: ImplicitReward = ImplicitReward()
    consistency: Consistency = Consistency()
    ceiling_use: CeilingUse = CeilingUse()
    rank_transfer: RankTransfer = RankTransfer()
    tracking: Tracking = Tracking()
    checkpoint_evaluations: CheckpointEvaluations = CheckpointEvaluations()
    alignment_tax: AlignmentTax = AlignmentTax()
    refusal_balance: RefusalBalance = RefusalBalance()
    diversity: Diversity = Diversity()
    next_token_loss: NextTokenLoss = NextTokenLoss()
    positions: Positions = Positions()
    sensitivity: Sensitivity = Sensitivity()
    realignment: Realignment = Realignment()
    verdict: VerdictSettings = VerdictSettings()
    headline: HeadlineSettings = HeadlineSettings()


def diagnose_all(
    records: pd.DataFrame,
    arms: Sequence[str],
    key: Key,
    *,
    settings: MismatchSettings | None = None,
    comparisons: Sequence[tuple[str, str]] | None = None,
) -> tuple[list[Diagnosis], dict[str, Decision]]:
    """Every diagnosis of every arm, the comparisons of arms, and a decision for each arm.

    Args:
        records: flat frame of sample records of one run, offline rows included.
        arms: names, the baseline first.
        key: random stream; what is answered about one arm does not depend on the others.
        settings: thresholds; the defaults if None.
        comparisons: (arm, baseline) pairs for realignment; if None, every arm against each one listed before it.
    """
    s = settings or MismatchSettings()
    found: list[Diagnosis] = []
    if comparisons is None:
        comparisons = [(arm, other) for i, arm in enumerate(arms) for other in arms[:i]]
    with keeping(records):
        for arm in arms:
            found += [_asked(module, records, arm, s, key) for module in DIAGNOSES]
        decisions = {arm: decide(records, arm, found, s.verdict, s.tracking, key / arm / "decision") for arm in arms}
        for arm, baseline in comparisons:
            found.append(realignment.compare(records, arm, baseline, s.realignment, key / arm / "against" / baseline))
        if len(arms) >= s.rank_transfer.min_runs:
            found.append(rank_transfer.across_arms(records, arms, s.rank_transfer, key / "rank_transfer"))
    return found, decisions


def _asked(module: ModuleType, records: pd.DataFrame, arm: str, settings: MismatchSettings, key: Key) -> Diagnosis:
    """The answer of one diagnosis; absent texts are stored as empty ones, and must not be taken for replies without words."""
    if getattr(module, "READS_TEXTS", False) and not _has_texts(records, arm):
        link: Link = next(one for one in get_args(Link) if one in module.__name__.split("."))
        return not_enough(link, module.NAME, module.QUESTION, arm, "no reply has a text")
    answer: Diagnosis = module.diagnose(records, arm, getattr(settings, module.NAME), key / arm / module.NAME)
    return answer


def _has_texts(records: pd.DataFrame, arm: str) -> bool:
    return _has(records, arm, "response") and bool((records.loc[records["arm"] == arm, "response"].fillna("") != "").any())


def _has(records: pd.DataFrame, arm: str, column: str) -> bool:
    return column in records and bool(records.loc[records["arm"] == arm, column].notna().any())
