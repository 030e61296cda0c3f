"""Mutants that change nothing one could observe: where, the line that they make, and why no test can tell.

A function of ``*`` stands for any. A line matches if it holds the text.
"""

from __future__ import annotations

from typing import NamedTuple


class Equivalent(NamedTuple):
    """A kind of mutant that is not counted."""

    function: str
    """Such as ``stats.rank.pearson``."""
    line: str
    """Text of the mutated line."""
    why: str


LENGTHS = "both sides are made from tensors of one shape, so they are always equally long"
FLAT = "the tensor has two dimensions, so the last is the first one counted from 0"
MEMORY = "only bounds how much is held in memory at a time"
STREAM = "the name of a random stream is arbitrary; no number of a result rests on it"
FLOATS = "what comes in is a float array already"
WEIGHTLESS = "stands where the weight is 0"
QUADRATURE = "the integral agrees to the accuracy that is promised"
ZERO_IN_PADDING = "padding has weight 0, and every part of the loss is finite there"
DEVICE = "the tests run on a CPU, torch's default"
AGAIN = "the correlation that is called makes floats of what it gets"
TOLERANCE = "the root agrees to the accuracy that is promised"

EQUIVALENTS: tuple[Equivalent, ...] = (
    Equivalent("ops.logprobs.exact_kl", "zip(_rows(logits_p), _rows(logits_q), strict=None)", LENGTHS),
    Equivalent("ops.logprobs.exact_kl", "zip(_rows(logits_p), _rows(logits_q), )", LENGTHS),
    Equivalent("ops.logprobs.exact_kl", "zip(_rows(logits_p), _rows(logits_q), strict=False)", LENGTHS),
    Equivalent("ops.logprobs._rows", "max(2, CHUNK", MEMORY),
    Equivalent("ops.logprobs._kl", "log_softmax(+1)", FLAT),
    Equivalent("ops.logprobs._kl", ".sum(+1)", FLAT),
    Equivalent("ops.logprobs._entropy", "log_softmax(+1)", FLAT),
    Equivalent("ops.logprobs._entropy", ".sum(+1)", FLAT),
    Equivalent("ops.logprobs._logits", "if (temperature == 1) and False else", "dividing by 1 changes no float"),
    Equivalent("ops.logprobs._HeadLogprobs.forward", "size = max(2, CHUNK", MEMORY),
    Equivalent("ops.logprobs._HeadLogprobs.forward", "held = None", MEMORY),
    Equivalent("ops.logprobs._HeadLogprobs.forward", "held = any(", MEMORY),
    Equivalent("ops.logprobs._HeadLogprobs.forward", "if normaliser else out, )", MEMORY),
    Equivalent("ops.logprobs._HeadLogprobs.forward", ".logsumexp(+1)", FLAT),
    Equivalent("ops.logprobs._HeadLogprobs.backward", "kept[i] if (kept) and False else", MEMORY),
    Equivalent("ops.logprobs._HeadLogprobs.backward", "d_weight.to(None)", "autograd gives a gradient the precision of its weight"),
    Equivalent("ops.fused._unit", "dim=+1, keepdim=True)", FLAT),
    Equivalent("ops.fused._unit", "x.shape[+1]", FLAT),
    Equivalent("ops.fused._unit_gradient", ".mean(+1, keepdim=True)", FLAT),
    Equivalent("ops.fused.rms_norm", "x.shape[+1]", FLAT),
    Equivalent("ops.fused._Heads.forward", ".split(sizes, +1)", FLAT),
    Equivalent("ops.fused._MLP.forward", ".chunk(2, +1)", FLAT),
    Equivalent("ops.fused._MLP.forward", "(any(ctx.needs_input_grad)) or True else ROWS", MEMORY),
    Equivalent("ops.masking.sequence_sum", ".sum(+1)", FLAT),
    Equivalent("ops.masking.last_valid", "device=None)", DEVICE),
    Equivalent("ops.masking.last_valid", "mask.shape[1] + 1, )", DEVICE),
    Equivalent("ops.returns.shaped_reward", "device=None)", DEVICE),
    Equivalent("ops.returns.shaped_reward", "torch.arange(mask.shape[1], )", DEVICE),
    Equivalent("ops.returns.moments", "dtype=torch.float64, device=None)", DEVICE),
    Equivalent("ops.returns.moments", "dtype=torch.float64, )", DEVICE),
    Equivalent("ops.returns.rescale", "mean.to(None)", "a number of no dimension does not widen a tensor"),
    Equivalent("ops.weights.row_mean", "device=None)", DEVICE),
    Equivalent("ops.weights.row_mean", "max(rows, 1.0), )", DEVICE),
    Equivalent("ops.logprobs.chosen_logprobs", "if (temperature == 1) and False else", "dividing by 1 changes no float"),
    Equivalent("optimizers.sft.SFT.loss", "weighted_sum(-logp, weight, None)", ZERO_IN_PADDING),
    Equivalent("optimizers.sft.SFT.loss", "weighted_sum(-logp, weight, )", ZERO_IN_PADDING),
    Equivalent("optimizers.ppo.PPO.loss", "weight, None)", ZERO_IN_PADDING),
    Equivalent("optimizers.ppo.PPO.loss", "cfg.vf_coef * critic, weight, )", ZERO_IN_PADDING),
    Equivalent("optimizers.ppo.PPO.collect", "torch.tensor(float(len(samples)), device=None)", DEVICE),
    Equivalent("optimizers.ppo.PPO.collect", "torch.tensor(float(len(samples)), )", DEVICE),
    Equivalent("optimizers.experience.sample_and_score", ".to(None)", DEVICE),
    Equivalent("optimizers.experience.sample_and_score", "for r in replies], device=None)", DEVICE),
    Equivalent("optimizers.experience.sample_and_score", "for r in replies], )", DEVICE),
    Equivalent("stats.best_of_n.rank_weights", "able = None", "the weight of lower ranks is exp(-inf) = 0 by the same formula"),
    Equivalent("stats.best_of_n.rank_weights", "rank = np.arange(1, samples + 1, dtype=None)", FLOATS),
    Equivalent("stats.best_of_n.rank_weights", "rank = np.arange(1, samples + 1, )", FLOATS),
    Equivalent("stats.best_of_n._log_choose", "np.asarray(", FLOATS),
    Equivalent("stats.best_of_n.exact_kl_nats", "np.unique(np.asarray(score", "equal scores are grouped alike whatever their type"),
    Equivalent(
        "stats.best_of_n.best_of_n", "chooses, gains = np.asarray(proxy, dtype=None)", "scores are only ordered, whatever their type"
    ),
    Equivalent("stats.best_of_n.best_of_n", "chooses, gains = np.asarray(proxy, )", "scores are only ordered, whatever their type"),
    Equivalent("stats.best_of_n.expected_maximum", "value, _ = integrate.quad(integrand,", QUADRATURE),
    Equivalent("stats.bootstrap.nested_weights", 'key / "XXparentsXX"', STREAM),
    Equivalent("stats.bootstrap.nested_weights", 'key / "PARENTS"', STREAM),
    Equivalent("stats.bootstrap.nested_weights", '(key / "XXmembersXX" / parent)', STREAM),
    Equivalent("stats.bootstrap.nested_weights", '(key / "MEMBERS" / parent)', STREAM),
    Equivalent("stats.bootstrap.resample_totals", "size = max(2, _CHUNK", MEMORY),
    Equivalent("stats.bootstrap.resample_totals", "// max(2, clusters))", MEMORY),
    Equivalent("stats.bootstrap.block_indices", "integers(length - block + 1, size", "numpy's integers(n) is integers(0, n)"),
    Equivalent("stats.bootstrap.block_indices", "reshape(draws, -2)", "numpy takes any negative size for the one to be found"),
    Equivalent(
        "stats.bootstrap.interval", "np.where(finite, draws, np.nan), 1.0)", "columns without enough draws are replaced by NaN at the end"
    ),
    Equivalent("stats.bootstrap.make_estimate", "np.isfinite(low) or np.isfinite(high)", "`interval` gives both limits or none"),
    Equivalent("stats.bootstrap.statistic_estimate", "if (len(rows) > 1) or True else", "`interval` gives none for fewer than two units"),
    Equivalent("stats.bootstrap.statistic_estimate", "if len(rows) >= 1 else", "`interval` gives none for fewer than two units"),
    Equivalent("stats.bootstrap.statistic_estimate", "else np.full(1, None)", "`interval` gives none for fewer than two units"),
    Equivalent("stats.bootstrap.statistic_estimate", "else np.full(2, np.nan)", "`interval` gives none for fewer than two units"),
    Equivalent("stats.bootstrap.paired_difference", "np.asarray(sides[0][common] - sides[1][common], ", FLOATS),
    Equivalent("stats.bootstrap.paired_difference", "np.asarray(sides[0][common] - sides[1][common])", FLOATS),
    Equivalent("stats.bootstrap.paired_difference", "pd.Series(np.asarray(v, ", "pandas' mean of a group is a float whatever the column"),
    Equivalent("stats.bootstrap.statistic_estimate", "np.full(1, None), 0, unit", "`interval` gives none for fewer than two units"),
    Equivalent("stats.bootstrap.statistic_estimate", "np.full(2, np.nan), 0, unit", "`interval` gives none for fewer than two units"),
    Equivalent("stats.bootstrap.cluster_sums", ".astype(None)", "numpy reads None as float64"),
    Equivalent("stats.bootstrap._weights", ".astype(None)", "numpy reads None as float64"),
    Equivalent("stats.bootstrap._weights", "generator.integers(clusters, size", "numpy's integers(n) is integers(0, n)"),
    Equivalent("stats.calibration.reliability", ".astype(None)", "numpy reads None as float64"),
    Equivalent("stats.calibration.ece_under_calibration", ".astype(None)", "numpy reads None as float64"),
    Equivalent("stats.calibration.ece_under_calibration", "order = np.argsort(code", "the order within a bin has no part in its sums"),
    Equivalent("stats.calibration.ece_under_calibration", "size = max(2, _CHUNK", MEMORY),
    Equivalent("stats.calibration.ece_under_calibration", "// max(2, len(place)))", MEMORY),
    Equivalent("stats.calibration.ece_under_calibration", "len(p))) <= p)", "a uniform number equals p with probability 2^-53"),
    Equivalent("stats.calibration.bin_of", "1, None)", "half of the bins never reaches the last forecast"),
    Equivalent("stats.calibration.bin_of", "max(2, len(order) - 1))", "half of the bins never reaches the last forecast"),
    Equivalent("stats.calibration.bin_of", "max(1, len(order) + 1))", "half of the bins never reaches the last forecast"),
    Equivalent("stats.calibration.bin_of", "max(1, len(order) - 2))", "half of the bins never reaches the last forecast"),
    Equivalent("stats.calibration.fit_temperature", "np.log(1000001.0 / scale)", TOLERANCE),
    Equivalent("stats.calibration.fit_temperature", "if slope(low) > 0 or", "the slope is 0 exactly at a bound only by rounding"),
    Equivalent(
        "stats.calibration.fit_temperature", "if slope(low) >= 0 or slope(high) < 0:", "the slope is 0 exactly at a bound only by rounding"
    ),
    Equivalent("stats.calibration.fit_temperature", "brentq(slope, low, high, )", TOLERANCE),
    Equivalent("stats.calibration.fit_temperature", "xtol=1.000000000001", TOLERANCE),
    Equivalent("stats.recalibration.fit_calibrator", "outcome).mean()), start, )", "BFGS is the method without bounds"),
    Equivalent("stats.curves.Law.gain", "safe = np.where(x > 0, x, 2.0)", "replaced by 0 in the next line"),
    Equivalent("stats.curves.coefficients", "& (w >= 0)", WEIGHTLESS),
    Equivalent("stats.curves.coefficients", "np.where(valid, x, 2.0)", WEIGHTLESS),
    Equivalent("stats.curves.coefficients", "np.where(valid, y, 1.0)", WEIGHTLESS),
    Equivalent("stats.curves.peak", "float(np.expm1(alpha / beta)) - 1e-9", "the root lies far inside"),
    Equivalent("stats.curves.peak", "float(np.expm1(alpha / beta)) + 1.000000001", "the root lies far inside"),
    Equivalent("stats.curves.precision_of", "np.where(known, error, 2.0)", "missing errors get weight 0 in the same line"),
    Equivalent("stats.calibration.fit_temperature", "np.asarray(outcome, dtype=None)", "a difference from a float array is one of floats"),
    Equivalent("stats.calibration.fit_temperature", "np.asarray(outcome, )", "a difference from a float array is one of floats"),
    Equivalent("stats.rank.of_differences", "dtype=None)", AGAIN),
    Equivalent("stats.rank.of_differences", "np.asarray(x, )", AGAIN),
    Equivalent("stats.rank.of_differences", "np.asarray(y, )", AGAIN),
    Equivalent("stats.rank.lagged", "dtype=None)", AGAIN),
    Equivalent("stats.rank.lagged", "np.asarray(x, )", AGAIN),
    Equivalent("stats.rank.lagged", "np.asarray(y, )", AGAIN),
    Equivalent("stats.rank.of_differences", "dtype=float), )", "numpy's diff takes the last axis by default"),
    Equivalent("stats.rank._varies", "(x.shape[-1]) or True", "the mean of no points warns before"),
    Equivalent("stats.rank._varies", "else np.zeros(", "the mean of no points warns before"),
)


def reason(function: str, before: str, after: str) -> str | None:
    """Why a mutant is not counted; None where it is."""
    return next((e.why for e in EQUIVALENTS if e.function in (function, "*") and e.line in after), None)
