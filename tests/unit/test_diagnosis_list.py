"""The list of diagnoses is complete: a file that can be asked is asked."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

from trueup.core.config import Config
from trueup.core.record import SampleRecord
from trueup.core.rng import Key
from trueup.mismatch import policy_evaluation, reward_evaluation, reward_policy
from trueup.mismatch.verdict import DIAGNOSES, MismatchSettings, diagnose_all
from trueup.store.records import to_frame

LINKS = {"reward_policy": reward_policy, "reward_evaluation": reward_evaluation, "policy_evaluation": policy_evaluation}
MODULES = [import_module(f"{p.__name__}.{m.name}") for p in LINKS.values() for m in iter_modules(p.__path__)]


def test_every_file_that_can_be_asked_is_in_the_list() -> None:
    assert {m.__name__ for m in MODULES if hasattr(m, "diagnose")} == {m.__name__ for m in DIAGNOSES}


@pytest.mark.parametrize("module", DIAGNOSES, ids=lambda m: m.NAME)
def test_settings_and_name_go_with_the_file(module) -> None:
    assert module.__name__.rsplit(".", 1)[1] == module.NAME
    assert isinstance(getattr(MismatchSettings(), module.NAME), Config)


def test_every_diagnosis_says_what_it_lacks_of_bare_records() -> None:
    rows = [
        SampleRecord(
            run="r", arm="a", seed=0, step=step, split="test", prompt_id=f"p{p}", sample_id=f"{step}:{p}", policy_id="x", prompt="q",
            response="words",
        )
        for step in (0, 10)
        for p in range(3)
    ]  # fmt: skip
    found, decisions = diagnose_all(to_frame(rows), ["a"], Key(0))
    assert [d.name for d in found] == [m.NAME for m in DIAGNOSES]
    for d, module in zip(found, DIAGNOSES, strict=True):
        assert d.verdict == "not enough data", d.name
        assert d.rule.startswith("Not enough data: ")
        assert d.link == module.__name__.split(".")[2]
        assert d.question == module.QUESTION
    assert decisions["a"].keep_step == 0
