"""`trueup decode` from the command line: what it writes, that it goes on after a stop, and what it says to those who err."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests_support import tiny_parts, tiny_policy, tiny_reward
from trueup.cli.main import invoke
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.tokens import encode_prompts, encode_replies, pack
from trueup.decoding.tree import value_tree
from trueup.loop.state import TrainState, save_state
from trueup.models.policy import load_policy
from trueup.models.tiny import tiny_tokenizer
from trueup.models.value import ValueModel, value_from_policy
from trueup.optimizers.ppo import PPOConfig
from trueup.pipeline.decode import decode
from trueup.pipeline.decode_config import DecodeConfig
from trueup.pipeline.decode_models import load_value
from trueup.store.records import frame, read_records
from trueup.store.run import Run

PROMPTS = ("good bad", "dull", "ask tell good", "tell", "bad bad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a reward model, a critic in a state, and prompts."""
    root = tmp_path_factory.mktemp("models")
    policy = tiny_policy(spread=1.5)
    policy.save(root / "policy")
    tiny_policy(seed=4).save(root / "other")
    tiny_reward().save(root / "reward")
    value = value_from_policy(policy)
    torch.nn.init.normal_(value.head.weight, generator=torch.Generator().manual_seed(2))
    tensors = {f"weights/critic/{n}": p.detach().clone() for n, p in value.named_parameters()}
    save_state(root / "state", TrainState(step=1, tensors=tensors, learner={}))
    rows = [json.dumps({"id": f"p{i}", "prompt": p}) for i, p in enumerate(PROMPTS)]
    (root / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return root


def words(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--policy", folder / "policy", "--reward-model", folder / "reward", "--prompts", folder / "prompts.jsonl", "--out", out]
    return ["decode", *map(str, given), "--set", "max_completion_length=6", "--set", "prompts_at_once=2", *more]


def said(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_methods_side_by_side(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    kinds = ("sample", "best_of_n", "rad", "mcts", "blockwise")
    methods = [w for kind in kinds for w in ("--method", kind)]
    more = ("--value", str(folder / "state"), "--set", "samples_per_prompt=3", "--set", "arms.1.decoding.n=8", "--json", "--quiet")
    assert invoke(words(folder, out, *methods, *more)) == 0
    found = said(capfd)
    assert list(found["arms"]) == list(kinds)
    rows = frame(out)
    assert len(rows) == 5 * len(PROMPTS) * 3
    assert rows.groupby("arm")["prompt_id"].nunique().tolist() == [5] * 5
    lines = [json.loads(line) for line in Path(found["replies"]).read_text().splitlines()]
    assert [line["sample_id"] for line in lines[:3]] == ["sample:0", "sample:1", "sample:2"]
    assert len(lines) == len(rows)
    for arm, means in found["arms"].items():
        here = rows[rows["arm"] == arm]
        assert means["reward"] == pytest.approx(here["proxy_fixed"].mean())
        # tokens of all models for every token written
        assert means["compute"] == pytest.approx(here["compute_tokens"].sum() / here["n_tokens"].sum())
    # eight candidates: log 8 - 7/8
    assert found["arms"]["best_of_n"]["kl_bound_nats"] == pytest.approx(np.log(8) - 7 / 8)
    assert found["arms"]["best_of_n"]["reward"] > found["arms"]["sample"]["reward"] + 0.1
    assert found["arms"]["sample"]["compute"] == 1.0
    assert found["arms"]["sample"]["kl_nats"] == pytest.approx(0.0, abs=1e-5)
    assert found["arms"]["rad"]["kl_nats"] > 0.01
    assert rows[rows["arm"] == "best_of_n"]["kl_policy_ref_exact_nats"].isna().all()


def test_records_say_what_the_models_say(folder: Path, tmp_path: Path) -> None:
    assert invoke(words(folder, tmp_path / "out", "--method", "sample", "--reference", str(folder / "other"), "--quiet")) == 0
    rows = read_records(tmp_path / "out")
    policy, other = (load_policy(folder / name) for name in ("policy", "other"))
    for row in rows:
        # unfinished replies have no end among their tokens
        text = type("Reply", (), {"text": row.response, "finished": row.finished})
        seq = pack(encode_prompts(policy.tokenizer, [row.prompt]), encode_replies(policy.tokenizer, [text]), 0)  # type: ignore[list-item]
        with torch.no_grad():
            assert row.logp_policy_nats == pytest.approx(policy.logprobs(seq).sum().item(), abs=1e-3)
            assert row.logp_ref_nats == pytest.approx(other.logprobs(seq).sum().item(), abs=1e-3)
        assert row.kl_policy_ref_exact_nats is None  # it is from the policy, not from this reference
        assert row.scores["rm-0"] == row.proxy_fixed
        assert row.policy_id == "policy/sample"


def test_a_stopped_run_goes_on_with_the_same_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ("--method", "rad", "--method", "best_of_n", "--quiet")
    assert invoke(words(folder, tmp_path / "whole", *methods)) == 0
    real, written = Run.write_records, []

    def stopping(run: Run, name: str, rows: Any) -> Path:
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(name)
        return real(run, name, rows)

    monkeypatch.setattr(Run, "write_records", stopping)
    assert invoke(words(folder, tmp_path / "broken", *methods)) == 130
    monkeypatch.undo()
    assert not (tmp_path / "broken" / "replies.jsonl").exists()
    assert invoke(words(folder, tmp_path / "broken", *methods)) == 2  # not without --resume
    assert invoke(words(folder, tmp_path / "broken", *methods, "--resume")) == 0
    for name in ("replies.jsonl", *(f"records/{n}.parquet" for n in written)):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    logged = [[{**row, "seconds": 0} for row in Run(tmp_path / name).metrics()] for name in ("whole", "broken")]
    assert logged[0] == logged[1]
    again = (tmp_path / "broken" / "ledger.jsonl").read_text()
    assert invoke(words(folder, tmp_path / "broken", *methods, "--resume")) == 0
    assert (tmp_path / "broken" / "ledger.jsonl").read_text() == again  # nothing was left to do


def test_plain_samples_give_the_curve_of_best_of_n(folder: Path, tmp_path: Path) -> None:
    assert invoke(words(folder, tmp_path / "out", "--method", "sample", "--set", "samples_per_prompt=5", "--quiet")) == 0
    (curve,) = json.loads((tmp_path / "out" / "best_of_n.json").read_text()).values()
    assert [entry["n"] for entry in curve] == [1, 2, 4]
    assert curve[1]["kl_bound_nats"] == pytest.approx(np.log(2) - 0.5)
    scores = frame(tmp_path / "out").groupby("prompt_id")["proxy_fixed"].apply(sorted)
    # the best of 2 among 5 sorted scores is the i-th lowest with chance C(i - 1, 1) / C(5, 2) = 0, 1, 2, 3, 4 tenths
    pairs = np.mean([np.dot([0, 0.1, 0.2, 0.3, 0.4], s) for s in scores])
    assert curve[1]["reward"]["value"] == pytest.approx(pairs, abs=1e-6)
    assert curve[0]["reward"]["value"] == pytest.approx(np.mean([np.mean(s) for s in scores]), abs=1e-6)
    assert curve[2]["reward"]["n"] == len(PROMPTS)
    assert curve[2]["reward"]["low"] < curve[2]["reward"]["value"] < curve[2]["reward"]["high"]
    assert "gold" not in curve[0]


def test_chunks_change_nothing(folder: Path, tmp_path: Path) -> None:
    for name, size in (("small", 1), ("large", 50)):
        assert invoke(words(folder, tmp_path / name, "--method", "controlled", "--set", f"prompts_at_once={size}", "--quiet")) == 0
    small, large = ([r.response for r in read_records(tmp_path / n)] for n in ("small", "large"))
    assert small == large


def test_a_scorer_of_prefixes_is_trained_first(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "decode.yaml"
    config.write_text(
        f"policy: {folder / 'policy'}\nreward_models: [{folder / 'reward'}]\nprompts: {folder / 'prompts.jsonl'}\n"
        "max_completion_length: 5\nsamples_per_prompt: 8\n"
        "fit_prefix: {objective: fudge, samples_per_prompt: 64, epochs: 6, batch_size: 64, loop: {learning_rate: 0.01}}\n"
        "arms:\n  - {name: plain, decoding: sample}\n  - {name: steered, decoding: {kind: controlled, strength: 3}}\n"
    )
    assert invoke(["decode", str(config), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = said(capfd)["arms"]
    assert found["steered"]["reward"] > found["plain"]["reward"] + 0.1
    assert (tmp_path / "out" / "checkpoints" / "prefix" / "config.json").is_file()
    losses = [r["metrics"]["loss"] for r in Run(tmp_path / "out").metrics() if r["stage"] == "prefix"]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    # the trained scorer serves another run
    more = ("--method", "rad", "--prefix", str(tmp_path / "out" / "checkpoints" / "prefix"), "--quiet")
    assert invoke(words(folder, tmp_path / "next", *more)) == 0


def test_a_world_brings_prompts_and_truth(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from trueup.models.policy import Policy
    from trueup.models.tiny import tiny_llama
    from trueup.sandbox.enumerable import EnumerableConfig

    world = EnumerableConfig(train_prompts=4, validation_prompts=2, test_prompts=3, demonstrations=0, train_pairs=1, validation_pairs=1)
    tokenizer = tiny_tokenizer(list(world.build(0, tmp_path).vocabulary()))
    Policy(tiny_llama(len(tokenizer), 16, 1, 2, 32, key=Key(1)), tokenizer).save(tmp_path / "policy")
    settings = {**world.model_dump(mode="json")}
    config = {"policy": "policy", "world": settings, "max_prompts": 2, "max_completion_length": 5, "samples_per_prompt": 2}
    arms = [{"name": "plain", "decoding": "sample"}]
    found = decode(validate({**config, "arms": arms}, DecodeConfig, where="test"), tmp_path / "out", base=tmp_path)
    rows = read_records(tmp_path / "out")
    assert len(rows) == 4
    assert {r.split for r in rows} == {"test"}
    assert all(r.gold is not None and "odd_words" in r.evaluations and r.scores == {} and r.proxy_fixed is None for r in rows)
    assert found.arms["plain"]["reward"] is None
    assert found.arms["plain"]["gold"] == pytest.approx(np.mean([r.gold for r in rows]))


def test_the_critic_of_a_ppo_arm(folder: Path) -> None:
    policy = load_policy(folder / "policy")
    found = load_value(folder / "state", policy)
    assert isinstance(found, ValueModel)
    assert value_tree(found, 0).root([[3, 4]], 1).abs().item() > 1e-6
    # the state that PPO leaves has these names
    learner = PPOConfig(num_generations=2, max_completion_length=4).build(tiny_parts())
    assert "critic" in learner.modules()


@pytest.mark.parametrize(
    ("more", "where", "message"),
    [
        (["--method", "radd"], "decode", "Did you mean 'rad'?"),
        (["--method", "mcts"], "decode", "needs the policy's value model: give 'value'"),
        (["--method", "mcts", "--value", "POLICY"], "policy", "not a reward model"),
        (["--method", "sample", "--set", "max_completion_length=40"], "prompt 'p0'", "more than the models' context of 32"),
        (["--method", "rad", "--set", "arms.0.decoding.beta=-1"], "decode", "greater than or equal to 0"),
        (["--method", "rad", "--set", "arms.0.decoding.top=3"], "decode", "arms.0.decoding.top: unknown key."),
        (["--method", "rad", "--method", "rad"], "decode", "distinct names"),
        (["--method", "tree_search_bfs", "--set", "arms.0.decoding.stops=[nothing]"], "stops", "not one token"),
        (["--method", "rad", "--prefix", "OTHER"], "", "need one tokenizer"),
        (["--method", "sample", "--reference", "nowhere/at/all"], "nowhere/at/all", "no such folder"),
        (["--method", "sample", "--set", "world={kind: enumerable}"], "decode", "give either 'prompts', a file, or 'world'"),
        (["--method", "rad", "--set", "fit_prefix.objective=tokens"], "decode", "set squash: true"),
        ([], "decode", "--policy, --prompts and --method"),
    ],
)
def test_mistakes_are_named(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], where: str, message: str
) -> None:
    other = tiny_reward()
    other._tokenizer = tiny_tokenizer([f"x{i}" for i in range(5)])
    other.save(tmp_path / "other")
    places = {"POLICY": str(folder / "policy"), "OTHER": str(tmp_path / "other")}
    assert invoke([*words(folder, tmp_path / "out", *(places.get(w, w) for w in more)), "--json"]) == 2
    error = said(capfd)["error"]
    assert message in error["message"]
    assert where in (error["where"] or "")
    assert not (tmp_path / "out" / "records").exists()
    assert where == "prompt 'p0'" or not (tmp_path / "out").exists() or "stops" in where


def test_a_file_and_options_do_not_mix(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "decode.yaml"
    config.write_text("policy: x\n")
    for more, option in ((["--method", "rad"], "--method"), (["--reward-model", "x"], "--reward-model"), (["--prompts", "x"], "--prompts")):
        assert invoke(["decode", str(config), *more, "--json"]) == 2
        assert said(capfd)["error"]["where"] == option
    assert invoke(["decode", str(tmp_path / "none.yaml"), "--json"]) == 2
    assert "no such configuration file" in said(capfd)["error"]["message"]
    (tmp_path / "twice.txt").write_text("dull\ndull\n")
    twice = ["decode", "--policy", str(folder / "policy"), "--prompts", str(tmp_path / "twice.txt"), "--method", "greedy", "--json"]
    assert invoke([*twice, "--out", str(tmp_path / "twice")]) == 2
    assert "repeated prompt" in said(capfd)["error"]["message"]
    assert invoke([*twice, "--out", str(tmp_path / "once"), "--set", "on_bad=skip", "--set", "max_completion_length=4"]) == 0
    assert len(read_records(tmp_path / "once")) == 1
    (tmp_path / "empty.jsonl").write_text("")
    values = {"policy": str(folder / "policy"), "prompts": str(tmp_path / "empty.jsonl"), "arms": [{"name": "a", "decoding": "greedy"}]}
    with pytest.raises(UserError, match="empty"):
        decode(validate(values, DecodeConfig, where="test"), tmp_path / "out")
