"""The study of `studies/tracking_coverage.py`: its simulated runs are what it says, and the interval covers on them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from trueup.core.rng import Key

STUDY = Path(__file__).resolve().parents[2] / "studies" / "tracking_coverage.py"
spec = importlib.util.spec_from_file_location("tracking_coverage", STUDY)
assert spec is not None
assert spec.loader is not None
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)


def test_coverage_on_simulated_runs_is_within_three_points_of_nominal() -> None:
    rows = list(study.coverage(2500, "spearman", Key(11), blocks=False))
    assert len(rows) == 36  # three lengths, three memories, two truths, levels and differences
    # a coverage of 95 % has a standard error of 0.44 points in 2,500 runs; the bound leaves two of them
    assert [r for r in rows if not 0.92 - 0.0088 <= float(r["serial_covers"]) <= 0.98 + 0.0088] == []
    assert min(float(r["serial_given"]) for r in rows) > 0.85


def test_simulated_series_have_the_correlation_asked_for() -> None:
    x, y = study.series(400, 40, 0.5, 0.5, Key(3))
    # 16,000 dependent pairs; about 16,000 (1 - 1/4) / (1 + 1/4) = 9,600 independent ones: standard error (1 - 1/4) / 98 = 0.008
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1] - 0.5) < 4 * 0.008
    assert abs(np.corrcoef(x[:, 1:].ravel(), x[:, :-1].ravel())[0, 1] - 0.5) < 4 * 0.009
    assert study.target("spearman", 1.0) == pytest.approx(1.0)
    assert study.target("kendall", 0.5) == pytest.approx(1 / 3)
