"""`trueup audit` of models: tiny checkpoints of three kinds, what is recorded of them, stops and resumes, and what errs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from tests_support import tiny_policy, tiny_reward
from trueup.cli.main import invoke
from trueup.core.errors import UserError
from trueup.data.rows import Prompt, Reply
from trueup.models.policy import LoraSettings, adapted, load_policy
from trueup.pipeline import audit as pipeline_audit
from trueup.pipeline.audit_models import gold_of, load_checkpoint, steps_of
from trueup.store.records import frame

PROMPTS = ("good bad", "dull", "ask tell good", "tell", "bad bad", "ask")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference, a whole checkpoint, an adapter on the reference, two reward models, prompts and preference pairs."""
    root = tmp_path_factory.mktemp("audited")
    reference = tiny_policy(spread=1.5)
    reference.save(root / "reference")
    tiny_policy(seed=4).save(root / "checkpoint-20")
    adapter = adapted(load_policy(root / "reference").model, LoraSettings(rank=2, seed=3))
    for name, weights in adapter.named_parameters():
        if "lora_B" in name:
            weights.data.fill_(0.3)
    adapter.save_pretrained(str(root / "checkpoint-10"))
    for i, name in enumerate(("rm", "rm2")):
        tiny_reward(i + 1).save(root / name)
    (root / "prompts.jsonl").write_text("".join(json.dumps({"id": f"p{i}", "prompt": p}) + "\n" for i, p in enumerate(PROMPTS)))
    pairs = [{"prompt": p, "chosen": "good good", "rejected": f"bad {w}"} for p in PROMPTS for w in ("dull", "tell")]
    (root / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return root


def words(models: Path, out: Path, *more: str, without: str = "") -> list[str]:
    given = {
        "--policy": "checkpoint-20", "--reference": "reference", "--reward-model": "rm", "--preferences": "pairs.jsonl",
        "--prompts": "prompts.jsonl",
    }  # fmt: skip
    named = [w for option, name in given.items() if option != without for w in (option, str(models / name))]
    sizes = ["--samples", "3", "--max-tokens", "6", "--set", "prompts_at_once=2"]
    return ["audit", *named, "--out", str(out), *sizes, "--quiet", *more]


def test_checkpoints_become_records_and_a_report(models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = ("--policy", str(models / "checkpoint-10"), "--reward-model", str(models / "rm2"), "--gold", "pattern:good", "--json")
    assert invoke(words(models, tmp_path / "out", *more)) == 0
    said = json.loads(capfd.readouterr().out)
    assert Path(said["report"]["html"]).is_file()
    rows = frame(tmp_path / "out")
    sampled, offline = rows[rows["arm"] == "policy"], rows[rows["arm"] == "offline"]
    # the reference is step 0; the others' steps are in their names, whatever their order
    assert sampled.groupby("step")["prompt_id"].nunique().to_dict() == {0: 6, 10: 6, 20: 6}
    assert len(sampled) == 3 * 6 * 3
    assert len(offline) == 2 * 12
    start = sampled[sampled["step"] == 0]
    # the reference's distance from itself is 0, that of the others is not
    assert np.abs(start["kl_policy_ref_exact_nats"]).max() < 1e-5
    assert np.allclose(start["logp_policy_nats"], start["logp_ref_nats"], atol=1e-4)
    assert (sampled.groupby("step")["kl_policy_ref_exact_nats"].mean()[[10, 20]] > 0.01).all()
    # each reward model has mean 0 and deviation 1 on the reference's replies; the proxy is their mean, the disagreement their spread
    names = ["scores.rm-0", "scores.rm-1"]
    scaled = (sampled[names] - start[names].mean()) / start[names].std(ddof=0)
    assert np.allclose(sampled["proxy_fixed"], scaled.mean(axis=1), atol=1e-4)
    assert np.allclose(sampled["disagreement"], scaled.std(axis=1, ddof=0), atol=1e-4)
    assert (sampled["gold"] == sampled["response"].str.contains("good").astype(float)).all()
    assert offline["gold"].tolist() == [1.0, 0.0] * 12


def test_a_stopped_audit_goes_on_and_is_the_same(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(words(models, tmp_path / "whole")) == 0
    done: list[int] = []
    write = pipeline_audit.write_parquet

    def stopping(path: Any, rows: Any) -> None:
        if len(done) == 4:  # three chunks of the reference and one of the checkpoint
            raise KeyboardInterrupt
        done.append(1)
        write(path, rows)

    monkeypatch.setattr(pipeline_audit, "write_parquet", stopping)
    assert invoke(words(models, tmp_path / "stopped")) == 130
    monkeypatch.undo()
    assert invoke(words(models, tmp_path / "stopped")) == 2  # without --resume the folder is in use
    assert invoke(words(models, tmp_path / "stopped", "--resume")) == 0
    assert frame(tmp_path / "stopped").equals(frame(tmp_path / "whole"))
    assert (tmp_path / "stopped/report/report.md").read_text().split("Facts")[0].count("\n") > 10


def test_labels_that_come_later(models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert invoke(words(models, out)) == 0
    rows = frame(out)
    here = rows[(rows["step"] == 20) & (rows["prompt_id"] == "p0")]["sample_id"].tolist()
    (tmp_path / "labels.csv").write_text(f"sample_id_a,sample_id_b,preference,annotator\n{here[0]},{here[1]},b,ann\n")
    capfd.readouterr()
    assert invoke(words(models, out, "--resume", "--json", "--labels", str(tmp_path / "labels.csv"))) == 0
    assert json.loads(capfd.readouterr().out)["reading"]["labels"] == {"among_samples": 1, "offline": 0, "left_out": 0}
    labelled = frame(out).set_index("sample_id").loc[here[0], "labels"]
    assert labelled == [{"annotator": "ann", "other_sample_id": here[1], "preference": 0.0}]


def test_an_adapter_is_its_base_plus_its_product(models: Path, tmp_path: Path) -> None:
    base, merged = load_policy(models / "reference"), load_checkpoint(str(models / "checkpoint-10"), str(models / "reference"))
    name = "model.layers.0.self_attn.q_proj.weight"
    before, after = base.model.get_parameter(name), merged.model.get_parameter(name)
    adapter = adapted(load_policy(models / "reference").model, LoraSettings(rank=2, seed=3))
    a = adapter.get_parameter(
        f"base_model.{name.removesuffix('.weight')}.lora_A.default.weight".replace("base_model.model", "base_model.model.model")
    )
    # W + alpha / rank * B A, with alpha 16, rank 2 and every entry of B 0.3: each row of B A is 0.3 times the sum of A's rows
    assert np.allclose((after - before).detach(), np.tile(8 * 0.3 * a.detach().sum(0), (len(before), 1)), atol=1e-5)
    shutil.copytree(models / "checkpoint-10", tmp_path / "broken")
    (tmp_path / "broken/adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="only safetensors"):
        load_checkpoint(str(tmp_path / "broken"), str(models / "reference"))


def test_steps_are_in_names_or_in_the_order() -> None:
    assert steps_of(["a/checkpoint-500", "a/checkpoint-20"]) == [500, 20]
    assert steps_of(["a/checkpoint-500", "b/checkpoint-500"]) == [1, 2]
    assert steps_of(["gpt2", "a/checkpoint-500"]) == [1, 2]
    assert steps_of(["run/policy-000040/"]) == [40]


def test_gold_without_a_world(models: Path) -> None:
    prompts, replies = [Prompt(id="p", text="ask")] * 2, [Reply(text="a wonderful day"), Reply(text="a horrible day")]
    vader = gold_of("vader", "template")
    assert vader is not None
    good, bad = vader(prompts, replies)
    assert good > 0.3 > -0.3 > bad
    model = gold_of(str(models / "rm"), "template")
    assert model is not None
    assert all(math.isfinite(x) for x in model(prompts, [Reply(text="good"), Reply(text="bad")]))
    assert gold_of(None, "template") is None


def test_without_a_truth_the_report_says_so(models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(words(models, tmp_path / "out", "--json", without="--preferences")) == 0
    said = json.loads(capfd.readouterr().out)
    assert {"gold", "labels"} <= set(said["reading"]["missing"])
    assert not [v for v in said["verdicts"] if v["verdict"] == "alarm" and v["name"] == "over_optimisation"]


Change = Callable[[Path], list[str]]
WRONG: dict[str, tuple[Change, str]] = {
    "no reference": (lambda m: words(m, m / "x", without="--reference"), "--reference"),
    "no reward model": (lambda m: words(m, m / "x", without="--reward-model"), "--reward-model"),
    "no policy": (lambda m: words(m, m / "x", without="--policy"), "--policy"),
    "files and models": (lambda m: words(m, m / "x", "--records", "a.csv"), "--policy"),
    "columns of models": (lambda m: words(m, m / "x", "--column", "a=b"), "--column"),
    "a reward model as policy": (lambda m: words(m, m / "x", "--policy", str(m / "rm")), "rm"),
    "a policy as reward model": (lambda m: words(m, m / "x", "--reward-model", str(m / "reference")), "reference"),
    "no such checkpoint": (lambda m: words(m, m / "x", "--policy", str(m / "none")), "none"),
    "no such gold": (lambda m: words(m, m / "x", "--gold", str(m / "none")), "none"),
    "no expression": (lambda m: words(m, m / "x", "--gold", "pattern:("), "regular expression"),
    "replies too long": (lambda m: words(m, m / "x", "--max-tokens", "5000"), "--max-tokens"),
    "twice the same": (lambda m: words(m, m / "x", "--policy", str(m / "checkpoint-20")), "twice"),
    "unknown setting": (lambda m: words(m, m / "x", "--set", "prompt=3"), "prompt"),
    "no such labels": (lambda m: words(m, m / "x", "--labels", str(m / "none.csv")), "none.csv"),
    "not a number": (lambda m: words(m, m / "x", "--samples", "0"), "samples_per_prompt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_errs_is_said_once_and_nothing_is_sampled(case: str, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, place = WRONG[case]
    try:
        assert invoke(change(models)) == 2
        said = capfd.readouterr().err
        assert said.count("error:") == 1
        assert place in said
        assert not list((models / "x").rglob("step-*"))
    finally:
        shutil.rmtree(models / "x", ignore_errors=True)


def test_equal_prompts_in_two_chunks_get_other_replies(models: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice.jsonl"
    twice.write_text("".join(json.dumps({"id": f"p{i}", "prompt": "good bad"}) + "\n" for i in range(4)))
    assert invoke([*words(models, tmp_path / "out", without="--prompts"), "--prompts", str(twice)]) == 0
    rows = frame(tmp_path / "out")
    replies = [tuple(rows[(rows["step"] == 0) & (rows["prompt_id"] == f"p{i}")]["response"]) for i in range(4)]
    assert len(set(replies)) == 4


def test_the_same_from_python(models: Path, tmp_path: Path) -> None:
    config = {
        "policies": [str(models / "checkpoint-20")], "reference": str(models / "reference"), "reward_models": [str(models / "rm")],
        "preferences": str(models / "pairs.jsonl"), "prompts": str(models / "prompts.jsonl"), "samples_per_prompt": 3,
        "max_completion_length": 6, "prompts_at_once": 2,
    }  # fmt: skip
    found = trueup.audit_models(config, tmp_path / "python")
    assert found.html.is_file()
    assert invoke(words(models, tmp_path / "command")) == 0
    assert frame(found.folder).equals(frame(tmp_path / "command"))
