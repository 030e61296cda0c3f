"""Whether the score depends on the request: replies under their own prompt and under others (contrast consistency: Shen et al. 2023).

A score may add any number to all replies of a prompt (Bradley-Terry does not see it), and any to a reply whatever the prompt. Both
cancel in a swap: s(p, a) + s(q, b) - s(p, b) - s(q, a) of replies a to p and b to q, which is 0 for a score that is blind to prompts.

A score may also read the prompt too little. Split it into o, what it says of the reply under other prompts on average, and the match
m = s - o. The labels follow alpha o + gamma m together, and beta s where only the score is asked. A score that hides a share h of the match
has a gamma of 1 / (1 - h) times what it should be. *Debt to the prompt* is gamma / beta - 1, so that the scale of the score does not
matter. Noise in o raises it too (the labels then trust the match more than the rest), so that only a large debt is a flaw: the alarm asks
for gamma - (1 + threshold) beta above 0, which needs no ratio.

Equal scores of one reply under all prompts mean that the prompt is not read there, unless the score has few values anyway.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.probes import DRAWS, UNCHANGED, aligned, change, coarse, mean_of, rows_of, size_of, variants
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.stats.bootstrap import Array, mean_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.logistic import Fit, joined, logistic, wald

MIN_CLUSTERS = 10
"""Groups of prompts that exchange replies; fewer allow no verdict."""
SHOWN = 0.9
"""Coverage of the interval of the share of swaps: 95 % one-sided."""


def swaps(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of prompts whose replies were exchanged both ways.

    Args:
        rows: of the probe ``other_prompt``.

    Returns:
        ``cluster`` and ``gain``, the mean score of replies under their own prompt minus under the other's, summed over both prompts.
    """
    own = rows.assign(gain=rows["original"] - rows["score"])
    means = own.groupby(["prompt_id", "variant"]).agg(gain=("gain", "mean"), cluster=("cluster", "first")).reset_index()
    back = means.rename(columns={"prompt_id": "variant", "variant": "prompt_id"})[["prompt_id", "variant", "gain"]]
    both = means.merge(back, on=["prompt_id", "variant"], suffixes=("", "_back"))
    both = both[both["prompt_id"] < both["variant"]]
    return pd.DataFrame({"cluster": both["cluster"], "gain": both["gain"] + both["gain_back"]})


def debt(evidence: Evidence, rows: pd.DataFrame) -> Fit | None:
    """Regressions of the labels on the score (beta), and on what it says whatever the prompt with the match (alpha, gamma).

    Returns:
        coefficients (beta, alpha, gamma); None where too few pairs were probed, the score separates the labels, or says nothing of them.
    """
    pairs = evidence.pairs
    other, own = aligned(evidence, rows, "score"), aligned(evidence, rows, "original")
    flat, match = (x[pairs.first] - x[pairs.second] for x in (other, own - other))
    known = np.isfinite(flat)
    if not known.any():
        return None
    x = np.stack([flat, match], axis=1)[known] / max(size_of(evidence), 1e-300)
    weight = np.where(pairs.tied, 1.0, pairs.share)[known]
    outcome = np.where(pairs.tied, 0.5, 1.0)[known]
    # labels of different prompts are independent given the scores, whichever prompts lent their replies
    whole = logistic(x.sum(axis=1, keepdims=True), outcome, pairs.prompt[known], weight)
    parts = logistic(x, outcome, pairs.prompt[known], weight)
    if whole is None or parts is None or whole.coefficient[0] <= 0:
        return None
    return joined(whole, parts)


def contrasts(evidence: Evidence) -> list[Estimate]:
    """``contrast_reply`` and ``contrast_instruction``: shares of right order between similar prompts, ties as half."""
    found = []
    for variant in variants(evidence, "contrast"):
        rows = rows_of(evidence, "contrast", variant)
        found.append(mean_of(_wins(-change(rows, size_of(evidence))), rows, f"contrast_{variant}", "share", evidence, 0.95))
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where replies do not lose by a swap of prompts, or the prompt is unread at some, or counts much less than for the labels."""
    rows, settings, size = rows_of(evidence, "other_prompt"), evidence.settings, size_of(evidence)
    if rows.empty or size == 0:
        return unknown("no replies were scored under other prompts" if rows.empty else "the score tells no replies apart")
    clusters = rows["cluster"].nunique()
    if clusters < MIN_CLUSTERS:
        return unknown(f"prompts exchange replies in {clusters} groups, {MIN_CLUSTERS} are needed")
    level = 1 - (1 - settings.alarm_level) / 2
    exchanged = swaps(rows)
    names = exchanged["cluster"].to_numpy()
    # without exchanges both ways an offset of prompts cannot be told from reading
    gains = exchanged["gain"].to_numpy(dtype=float) / (2 * size)
    share = mean_estimate(_wins(gains), names, "own_prompt", "share", evidence.key / "own_prompt", level=SHOWN, draws=DRAWS)
    worth = mean_estimate(gains, names, "prompt_worth", "sd", evidence.key / "prompt_worth", draws=DRAWS)
    found, guilty = [share, worth], []
    if share.low is not None and share.low <= 0.5:
        guilty.append(f"exchanging prompts is not shown to cost replies anything: own prompts win {shown(share)} of the swaps")
    if not coarse(rows):
        still = rows.assign(still=change(rows, size) == 0).groupby(["item", "reply"])
        each = still.agg(still=("still", "all"), cluster=("cluster", "first"))
        unread = mean_of(each["still"].to_numpy(dtype=float), each, "prompt_unread", "share", evidence, level)
        found.append(unread)
        if unread.low is not None and unread.low > settings.max_unread:
            guilty.append(f"the score of {shown(unread)} of the replies is the same under any prompt")
    owed = debt(evidence, rows)
    if owed is not None:
        found.append(_debt_estimate(owed, level))
        if _owes(owed, settings.max_prompt_debt, level):
            guilty.append(f"what labels owe to the prompt, the score shows too little of: debt {shown(found[-1])}")
    found += contrasts(evidence)
    if guilty:
        said = "; ".join(guilty)
        return Answer(verdict="alarm", rule=f"{said[0].upper()}{said[1:]}.", estimates=tuple(found))
    if share.low is None:
        return unknown("no two prompts exchanged their replies both ways")
    told = f"Own prompts win {shown(share)} of the swaps, and no debt above {settings.max_prompt_debt:g} is shown."
    return Answer(verdict="quiet", rule=told, estimates=tuple(found))


def _wins(gain: Array) -> Array:
    """1 where positive, 0 where negative, 1/2 where it is 0 but for rounding; standard deviations."""
    return (np.sign(np.where(np.abs(gain) < UNCHANGED, 0.0, gain)) + 1) / 2


def _debt_estimate(fit: Fit, level: float) -> Estimate:
    beta, _, gamma = fit.coefficient
    return wald("prompt_debt", float(gamma / beta - 1), np.array([-gamma / beta**2, 0.0, 1 / beta]), fit, "ratio", level)


def _owes(fit: Fit, most: float, level: float) -> bool:
    beta, _, gamma = fit.coefficient
    low = wald("line", float(gamma - (1 + most) * beta), np.array([-(1 + most), 0.0, 1.0]), fit, "", level).low
    return low is not None and low > 0


QUESTION = Question(
    name="prompt",
    title="Prompt",
    ask="Does it read the prompt?",
    lede="Own prompt: how often two replies score higher in all under their own prompts than exchanged, equal scores as half. Debt: how "
    "much more the labels follow the match of reply and prompt than the score as a whole; 1 is half of it hidden, or as much noise in the "
    "rest. Contrast: the same between prompts that look alike.",
    answer=answer,
)
