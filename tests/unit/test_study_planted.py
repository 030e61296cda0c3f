"""The worlds of `studies/planted_worlds.py` against their own samples, and the names that `studies/exploits.py` counts."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trueup.core.rng import Key

STUDIES = Path(__file__).resolve().parents[2] / "studies"


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    return _study("planted_worlds")


def _study(name: str) -> ModuleType:
    sys.path.insert(0, str(STUDIES))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(STUDIES))


def test_the_closed_forms_are_what_samples_have(worlds: ModuleType) -> None:
    set_to, key = worlds.setting(0), Key(3)
    w = worlds.world("flattery", 1.6, key, set_to)
    rows = worlds.records(w, key, set_to, "gold")
    here = rows[rows["arm"] == "a"]
    for place, time in enumerate(worlds.TIMES):
        now, exact = here[here["step"] == place * 10], worlds.policy(w, time)
        # 240 replies to given prompts; the deviation of gold is at most about 1.2
        error = float(now["gold"].std()) / np.sqrt(len(now))
        assert abs(float(now["gold"].mean()) - exact.gold) < 4 * max(error, 0.02)
        assert now["kl_policy_ref_exact_nats"].mean() == pytest.approx(float(exact.kl.mean()))
        # log-ratios of the replies have the KL as their mean
        ratio = now["logp_policy_nats"] - now["logp_ref_nats"]
        assert abs(float(ratio.mean() - exact.kl.mean())) < 4 * max(float(ratio.std()) / np.sqrt(len(now)), 0.02)
    said = here["response"].str.startswith("what a great question")
    assert said[here["step"] == 0].mean() < 0.08
    assert said[here["step"] == 80].mean() > 0.5


def test_praise_by_hand(worlds: ModuleType) -> None:
    # share 0.02, cost 0.9, price 1.3: at time 10 log-odds are log(0.02 / 0.98) + 10 x 0.4 = -3.8918 + 4 = 0.1082, a share of 0.527
    w = worlds.world("flattery", 1.3, Key(0), worlds.Setting())
    assert worlds.policy(w, 10.0).traits[:, 1] == pytest.approx(0.527, abs=1e-3)
    assert worlds.policy(w, 0.0).kl == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", ["length", "pooling", "tail", "noise", "stale"])
def test_sizes_cost_what_is_asked(worlds: ModuleType, kind: str) -> None:
    set_to = worlds.setting(1000)
    size = worlds.size_of(kind, 0.1, Key(1), set_to)
    assert worlds.cost(kind, size, Key(1), set_to) == pytest.approx(0.1, abs=0.005)
    assert worlds.size_of(kind, 50.0, Key(1), set_to) is None


def test_gold_is_crossed_after_its_peak_or_never(worlds: ModuleType) -> None:
    set_to = worlds.Setting()
    assert worlds.crossing(worlds.world("", 0.0, Key(0), set_to)) is None
    w = worlds.world("facts", 1.6, Key(0), set_to)
    at = worlds.crossing(w)
    gold = worlds.curve(w)
    assert worlds.TIMES[int(gold.argmax())] < at
    lost = (gold.max() - worlds.policy(w, at).gold) / (gold.max() - gold[0])
    # the peak is found on a grid of 0.05 here, on the checkpoints there
    assert lost == pytest.approx(0.1, abs=0.01)


def test_labels_are_a_budget_and_gold_is_gone(worlds: ModuleType) -> None:
    set_to = worlds.Setting()
    rows = worlds.records(worlds.world("", 0.0, Key(0), set_to), Key(0), set_to, "labels")
    assert "gold" not in rows
    online = rows[rows["arm"] == "a"]
    assert sum(map(len, online["labels"])) == worlds.LABELS
    assert all(label["other_sample_id"].startswith("0:") for labels in online["labels"] for label in labels)


def test_names_of_a_phrase() -> None:
    study = _study("exploits")
    assert study.named("and mix", "and mix it slowly")
    assert study.named("and mix", "mix")
    assert not study.named("and mix", "mixer")
    assert not study.named("and mix", "mix it")
    # 9 of 10: Clopper and Pearson give 0.555 to 0.997
    found = study.rate([True] * 9 + [False])
    assert (found["share"], found["hits"], found["n"]) == (0.9, 9, 10)
    assert found["low"] == pytest.approx(0.555, abs=1e-3)
    assert found["high"] == pytest.approx(0.997, abs=1e-3)
