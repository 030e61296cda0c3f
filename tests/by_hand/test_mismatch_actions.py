"""What is advised, from diagnoses written by hand; and what labels alone decide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.planted.worlds import Plant, frame
from trueup.core.rng import Key
from trueup.mismatch.actions import ActionSettings, advised
from trueup.mismatch.decision import VerdictSettings, decide
from trueup.mismatch.diagnosis import Diagnosis
from trueup.mismatch.keep_rule import KeepRule, keep
from trueup.mismatch.policy_evaluation.tracking import Tracking
from trueup.stats.estimate import Estimate


def alarm(name: str, estimates: dict[str, float] | None = None, series: dict | None = None, samples: tuple[str, ...] = ()) -> Diagnosis:
    found = tuple(Estimate(name=k, value=v, low=None, high=None, n=1) for k, v in (estimates or {}).items())
    return Diagnosis(
        link="reward_policy",
        name=name,
        question="?",
        arm="x",
        verdict="alarm",
        rule="",
        estimates=found,
        series=series or {},
        samples=samples,
    )


def kinds(alarms: list[Diagnosis], settings: ActionSettings | None = None, **rest) -> list[str]:
    given = {"stop": False, "kept_kl": None, "last_kl": None, "labels": None} | rest
    return [a.kind for a in advised(alarms, settings or ActionSettings(), **given)]


def test_a_stronger_penalty_only_past_the_kept_checkpoint() -> None:
    # 5 nats are more than 1.25 x 3.9 = 4.875, 4.8 are not
    (raised,) = advised([alarm("over_optimisation")], ActionSettings(), stop=True, kept_kl=3.9, last_kl=5.0, labels=None)
    assert (raised.kind, raised.amount, raised.unit, raised.diagnoses) == ("raise_kl", 3.9, "nats", ("over_optimisation",))
    assert kinds([], stop=True, kept_kl=3.9, last_kl=4.8) == []
    assert kinds([], stop=False, kept_kl=3.9, last_kl=50.0) == []
    assert kinds([], stop=True, kept_kl=None, last_kl=50.0) == []
    assert kinds([], ActionSettings(kl_excess=1.0), stop=True, kept_kl=3.9, last_kl=4.8) == ["raise_kl"]


def test_the_reward_model_is_refitted_or_joined_by_others() -> None:
    shift = alarm("distribution_shift", {"drop_current": 0.2, "other": 1.0}, samples=("a", "b"))
    doubt = alarm("signal", {"doubt_last": 1.4}, samples=("b", "c"))
    realign, ensemble = advised(
        [doubt, shift, alarm("goodhart", samples=("a",))], ActionSettings(), stop=False, kept_kl=1.0, last_kl=1.0, labels=None
    )
    assert (realign.kind, realign.diagnoses, realign.samples) == ("realign", ("distribution_shift", "goodhart"), ("a", "b"))
    assert [e.name for e in realign.evidence] == ["drop_current"]
    assert (ensemble.kind, ensemble.diagnoses, ensemble.evidence[0].value) == ("ensemble", ("signal",), 1.4)
    assert kinds([shift], ActionSettings(realign_on=("goodhart",))) == []
    assert kinds([alarm("tracking")]) == []


def test_biases_are_named_once_and_at_most_three() -> None:
    exploits = alarm(
        "exploits", {"proxy: so smart": 1.0, "gold: so smart": -0.5, "proxy: indeed": 0.3},
        {"what": ["so smart", "hedging", "indeed"], "alarm": [True, True, False]},
    )  # fmt: skip
    # hedging is known already; words cost nothing for certain; flattery was not taken up; politeness holds in all three
    style = alarm("style", {}, {
        "feature": ["hedging", "words", "flattery", "politeness", "numbers"], "pays_low": [0.1, 0.1, 0.1, 0.2, None],
        "worth_high": [-0.1, 0.1, -0.1, -0.3, -0.1], "growth_low": [0.5, 0.5, -0.1, 0.1, 0.1],
    })  # fmt: skip
    length = alarm("length", {"partial_correlation_given_gold": 0.2, "length_growth": 5.0})
    found = advised([length, style, exploits], ActionSettings(most_biases=9), stop=False, kept_kl=None, last_kl=None, labels=None)
    assert [(a.kind, a.target, a.diagnoses) for a in found] == [
        ("fix_bias", "so smart", ("exploits",)), ("fix_bias", "hedging", ("exploits",)),
        ("fix_bias", "politeness", ("style",)), ("fix_bias", "length", ("length",)),
    ]  # fmt: skip
    assert [e.name for e in found[0].evidence] == ["proxy: so smart", "gold: so smart"]
    assert [e.name for e in found[3].evidence] == ["partial_correlation_given_gold"]
    assert len(kinds([length, style, exploits])) == 3


def written(plant: Plant) -> pd.DataFrame:
    """Checkpoint rows without a truth, every reply another text."""
    records = frame(plant, 0).drop(columns=["gold", "evaluations.task_correct"])
    records = records[records["arm"] == "static"]
    return records.assign(response=records["sample_id"])


def test_labels_are_asked_for_until_they_suffice() -> None:
    records = written(Plant(prompts=30, checkpoints=5))
    labels = keep(records, "static", KeepRule(budget=0), Key(0))
    assert labels is not None
    (asked,) = advised([], ActionSettings(certain=1.0, labels=50), stop=False, kept_kl=1.0, last_kl=1.0, labels=labels)
    assert (asked.kind, asked.amount, asked.unit, asked.pairs) == ("label", 50, "comparisons", labels.wanted)
    plain = asked.to_dict()
    assert plain["pairs"] == [list(p) for p in labels.wanted]
    assert kinds([], ActionSettings(certain=labels.chance), labels=labels) == []
    assert kinds([], labels=None) == []


def compared(records: pd.DataFrame, steps: list[int], utility: dict[int, float], count: int) -> pd.DataFrame:
    """The records with labels between random checkpoints: log-odds are differences of utility."""
    g = Key(7).generator()
    rows = {key: part["sample_id"].tolist() for key, part in records.groupby(["step", "prompt_id"])}
    prompts, labels = sorted(set(records["prompt_id"])), {}
    for _ in range(count):
        a, b = (steps[int(i)] for i in g.choice(len(steps), 2, replace=False))
        prompt = prompts[int(g.integers(len(prompts)))]
        first, second = (rows[s, prompt][int(g.integers(len(rows[s, prompt])))] for s in (a, b))
        won = float(g.random() < 1 / (1 + np.exp(utility[b] - utility[a])))
        labels.setdefault(first, []).append({"annotator": "n", "other_sample_id": second, "preference": won})
    return records.assign(labels=[labels.get(s, []) for s in records["sample_id"]])


def test_labels_between_checkpoints_decide_where_gold_is_unknown() -> None:
    records = written(Plant(prompts=40, checkpoints=5, kl_end=9.0))
    steps = [0, 10, 20, 30, 40]
    told = compared(records, steps, dict(zip(steps, [0.0, 1.0, 0.5, -1.0, -2.0], strict=True)), 400)
    found = decide(told, "static", [], VerdictSettings(), Tracking(), Key(0))
    assert (found.basis, found.keep_step, found.stop) == ("labels", 10, True)
    assert found.evidence[0].name == "gain_of_kept"
    assert found.evidence[1].low is not None
    assert found.evidence[1].low > 0
    # KL at the kept checkpoint (t = 1/4): (3 / 4)^2 = .5625; the last has 9
    (raised,) = [a for a in found.actions if a.kind == "raise_kl"]
    assert raised.amount == pytest.approx(0.5625, abs=1e-2)


def test_the_stop_rule_is_heard_beside_gold() -> None:
    """Gold rises, annotators who compared the newest with the best so far found it worse each time."""
    records = frame(Plant(prompts=40, checkpoints=4), 0)
    lost = {"annotator": "n", "preference": 0.0}
    labels = {f"static:1:{p}:0": [lost | {"other_sample_id": f"static:0:{p}:0"}] for p in range(40)}
    told = records.assign(labels=[labels.get(s, []) for s in records["sample_id"]])
    found = decide(told, "static", [], VerdictSettings(), Tracking(), Key(0))
    assert found.stop
    assert "at any look" in found.why
    assert not decide(records, "static", [], VerdictSettings(), Tracking(), Key(0)).stop
    assert found.to_dict()["actions"] == [a.to_dict() for a in found.actions]
