"""The gain that comparisons of reference samples predict, without gold; see `trueup.mismatch.reward_model.gains` for the estimates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import shown
from trueup.mismatch.features import PREFIX
from trueup.mismatch.reward_model.gains import predicted_gains
from trueup.mismatch.reward_model.learnable import learnable, word_counts
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.samples import REFERENCE, Grid, compared_of, grid_of
from trueup.stats.bootstrap import Array
from trueup.stats.estimate import Estimate
from trueup.stats.tilting import standardised, tilt

MIN_COMPARISONS = 20


def followed(grids: Sequence[Grid]) -> Array:
    """[M, P, K] what of each model's score a policy can follow, in deviations of the score; all of it where no texts were kept.

    Args:
        grids: of the models, on the same replies.
    """
    score = np.stack([standardised(g.column("score")) for g in grids])
    texts = grids[0].texts()
    if texts is None:
        return score
    counts = word_counts([text for row in texts for text in row]).reshape(*grids[0].shape, -1)
    found = learnable(score, counts)
    # a score that words do not explain at all is taken as it is
    return np.where(np.nanmax(np.abs(found), axis=(1, 2), keepdims=True) > 0, found, score)


def pooled_gains(
    samples: pd.DataFrame, comparisons: pd.DataFrame, beta: float, key: Key, level: float = 0.95
) -> dict[str, tuple[Estimate, ...]]:
    """Predicted gains of all models of a table of samples, which share the comparisons.

    Args:
        samples: of all models, as `trueup.mismatch.reward_model.samples.checked_samples` gives them.
        comparisons: as `checked_comparisons` gives them.
        beta: strength of the KL penalty, deviations of the score a nat.
        key: random stream.
        level: coverage of the intervals.

    Returns:
        model -> ``gain`` (combined), ``gain_robust``, ``gain_modelled``, ``gain_counted``, and for all but the first model
        ``gain_over MODEL``, the robust difference to the first; win rates against the reference less 1/2. Empty where too little is
        known.
    """
    if samples.empty or comparisons.empty:
        return {}
    grids = {str(name): grid_of(rows, REFERENCE) for name, rows in samples.groupby("model", sort=True)}
    first = next(iter(grids.values()))
    compared = compared_of(comparisons, first, REFERENCE) if min(first.shape) else None
    score = followed(list(grids.values()))
    if compared is None or len(compared.outcome) < MIN_COMPARISONS or not (np.nanstd(score, axis=2) > 0).any():
        return {}
    features = [np.nan_to_num(v) for v in first.columns(PREFIX).values()]
    columns = np.stack(features) if features else np.zeros((0, *first.shape))
    gains = predicted_gains(tilt(score, beta), score, columns, compared, key)
    found = {}
    for m, name in enumerate(grids):
        names = {"combined": "gain", "robust": "gain_robust", "modelled": "gain_modelled", "counted": "gain_counted"}
        own = [gains.estimate(m, method, name, level) for method, name in names.items()]
        over = [gains.difference(m, 0, "robust", f"gain_over {next(iter(grids))}")] if m else []
        found[name] = (*own, *over)
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where optimising the score is shown to make replies worse than the reference's."""
    if not evidence.gains:
        return unknown(f"fewer than {MIN_COMPARISONS} comparisons of samples of the reference are known; --ask says which to have labelled")
    gain = evidence.gains[0]
    if gain.n < evidence.settings.min_prompts:
        return unknown(f"{gain.n} prompts have two samples or more, {evidence.settings.min_prompts} are needed")
    rule = f"At beta {evidence.settings.tilt_beta:g} its optimum is predicted to win {shown(gain)} more than half against the reference."
    if gain.high is not None and gain.high < 0:
        return Answer(verdict="alarm", rule=rule, estimates=evidence.gains)
    clear = gain.low is not None and gain.low > 0
    return Answer(verdict="quiet" if clear else "no difference shown", rule=rule, estimates=evidence.gains)


QUESTION = Question(
    name="predicted_gain",
    title="Predicted gain",
    ask="Will optimising it make replies better, as far as comparisons can say?",
    lede="Win rate against the reference, less one half, of the reference tilted towards the score, or towards that part of it which the "
    "words of a reply explain, where texts are known: a policy can follow no other. Counted: from the pairs alone. "
    "Modelled: by a utility that is fitted to the comparisons on the scores of all models and named features. Robust: modelled, and "
    "corrected by the pairs, as is the difference to the first model. Gain: with what of that correction is no noise; order models by it.",
    answer=answer,
)
