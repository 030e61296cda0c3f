"""An arm that is stopped by comparisons at its probes: where it stops, what it leaves, that training knows nothing of it, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from trueup.core.config import load_config
from trueup.core.errors import UserError
from trueup.core.record import SampleRecord
from trueup.mismatch.stop_rule import StopRule, watch
from trueup.pipeline.config import RunConfig
from trueup.pipeline.events import Event
from trueup.pipeline.run import execute
from trueup.pipeline.watching import said
from trueup.store.records import frame
from trueup.store.run import Run

# a policy that is paid for the opposite of gold, in steps large enough to wreck it
CONFIG = """
threads: 1
world: {kind: helpdesk, train_prompts: 12, validation_prompts: 4, test_prompts: 6, demonstrations: 400, train_pairs: 8, validation_pairs: 8}
policy_model: {hidden_size: 16, layers: 1, heads: 2}
sft: {epochs: 8, batch_size: 16, loop: {learning_rate: 2.0e-2}}
reward: null
policy:
  steps: 6
  prompts_per_step: 4
  optimizer: {kind: rloo, num_generations: 4, max_completion_length: 16, beta: 0.0}
  loop: {learning_rate: 1.0e-1}
probe: {every: 1, prompts: 6, samples_per_prompt: 16}
checkpoint_every: 4
arms:
  - {name: wrecked, reward: {kind: sum, parts: [{weight: -1, reward: gold}]}, early_stop: {comparisons: 12, alpha: 0.2}}
  - {name: free, reward: {kind: sum, parts: [{weight: -1, reward: gold}]}}
"""


@pytest.fixture(scope="module")
def notes() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, notes: list[Event]) -> Path:
    folder = tmp_path_factory.mktemp("early")
    (folder / "config.yaml").write_text(CONFIG)
    execute(load_config(folder / "config.yaml", RunConfig), folder / "out", base=folder, on_event=notes.append)
    return folder / "out"


def of(out: Path, arm: str) -> pd.DataFrame:
    table = frame(out / "records")
    return table[table["arm"] == arm].reset_index(drop=True)


def test_it_stops_before_the_end_and_says_so(out: Path, notes: list[Event]) -> None:
    facts, records = Run(out).done("wrecked/policy"), of(out, "wrecked")
    assert facts is not None
    assert facts["stopped_early"] is True
    stop = facts["steps"]
    assert 0 < stop < 6
    assert int(records["step"].max()) == stop
    assert (out / "checkpoints" / "wrecked" / f"policy-{stop:06d}").exists()
    found = watch(records, "wrecked", StopRule(alpha=0.2, looks=6))
    assert found is not None
    assert found.stop_step == stop
    assert found.looks[-1].n == 12
    told = [e.text for e in notes if e.kind == "note" and e.arm == "wrecked"]
    assert len(told) == stop + 1
    assert "probe at step 0" in told[0]
    assert told[-1].endswith(": stop")
    assert all(t.endswith(": go on") for t in told[1:-1])
    free = Run(out).done("free/policy")
    assert free is not None
    assert (free["steps"], "stopped_early" in free) == (6, False)


def test_training_knows_nothing_of_it(out: Path) -> None:
    """Up to the stop both arms are one, records and metrics alike, but for the labels."""
    wrecked = of(out, "wrecked")
    free = of(out, "free")[: len(wrecked)]
    for column in ("response", "gold", "logp_policy_nats", "kl_policy_ref_exact_nats"):
        assert wrecked[column].tolist() == free[column].tolist()
    rows = Run(out).metrics()
    losses = {arm: [r["metrics"]["loss"] for r in rows if r["arm"] == arm] for arm in ("wrecked", "free")}
    assert losses["wrecked"] == losses["free"][: len(losses["wrecked"])]
    assert not any(len(x) for x in free["labels"])


def test_resumed_it_stays_stopped(out: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    stop = (Run(copy).done("wrecked/policy") or {})["steps"]
    (copy / "stages" / "wrecked" / "policy.json").unlink()
    before = len(list(Run(copy).ledger_rows()))
    (tmp_path / "config.yaml").write_text(CONFIG)
    execute(load_config(tmp_path / "config.yaml", RunConfig), copy, base=tmp_path, resume=True)
    assert len(list(Run(copy).ledger_rows())) == before
    assert (Run(copy).done("wrecked/policy") or {})["steps"] == stop
    assert of(copy, "wrecked").equals(of(out, "wrecked"))


def test_a_judge_that_is_not_there_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "config.yaml", RunConfig, ["arms.0.early_stop.judge=task_corect", "sft.epochs=1"])
    with pytest.raises(UserError, match=r"arm 'wrecked', early_stop.judge.*no evaluation 'task_corect'.*task_correct"):
        execute(config, tmp_path / "out", base=tmp_path)


def test_an_evaluation_may_judge(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    change = ["arms.0.early_stop={judge: words, higher_is_better: false, comparisons: 8}", "policy.steps=1", "sft.epochs=1"]
    execute(load_config(tmp_path / "config.yaml", RunConfig, change), tmp_path / "out", base=tmp_path)
    records = of(tmp_path / "out", "wrecked").set_index("sample_id")
    labels = [(s, x) for s, row in records.iterrows() for x in row["labels"]]
    assert labels
    for sample, label in labels:
        ours, theirs = (records.loc[s, "evaluations.words"] for s in (sample, label["other_sample_id"]))
        assert label["annotator"] == "evaluation words"
        assert label["preference"] == (0.5 if ours == theirs else float(ours < theirs))  # fewer words are better here


def test_a_line_by_hand() -> None:
    record = SampleRecord(
        run="r", arm="a", seed=0, step=20, split="test", prompt_id="p", sample_id="s", policy_id="x", prompt="", response="",
        kl_policy_ref_exact_nats=1.25, proxy_current=0.5, gold=0.25,
    )  # fmt: skip
    assert said([record], 20, {0: 0.5, 20: 0.25}, None) == "probe at step 20, kl 1.25, proxy 0.5, gold 0.25 (highest 0.5 at step 0)"
    assert said([record], 20, {20: 0.25}, None) == "probe at step 20, kl 1.25, proxy 0.5, gold 0.25"
