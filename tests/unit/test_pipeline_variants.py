"""What a probe measures beside the plain samples, against the checkpoints themselves; and that training does not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.data.rows import Reply
from trueup.data.tokens import encode_prompts, encode_replies, pack
from trueup.models.policy import load_policy
from trueup.models.reward import load_reward
from trueup.pipeline.config import RunConfig
from trueup.pipeline.context import Context
from trueup.pipeline.events import nobody
from trueup.pipeline.run import execute
from trueup.pipeline.variants import around, check_probe
from trueup.rewards.learned import LearnedReward
from trueup.store.records import frame
from trueup.store.run import Run

VARIANTS = [
    "greedy",
    {"kind": "temperature", "temperature": 0.5, "samples": 3},
    {"kind": "prompt", "name": "polite", "before": "please", "samples": 1},
    {"kind": "reworded", "name": "hello", "before": "hello ."},
    {"kind": "cut", "share": 0.5},
    {"kind": "paraphrase", "replace": {"is": "can", "a": "the"}},
    {"kind": "demonstration", "rows": 20},
    {"kind": "pair", "pairs": 10},
]
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "world": {
        "kind": "helpdesk", "train_prompts": 12, "validation_prompts": 4, "test_prompts": 6, "demonstrations": 64, "train_pairs": 32,
        "validation_pairs": 16,
    },
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 4, "batch_size": 8, "loop": {"learning_rate": 1e-2}},
    "reward": {"epochs": 1, "batch_size": 8, "reference_samples": 16},
    "policy": {
        "steps": 2, "prompts_per_step": 4, "loop": {"learning_rate": 1e-2},
        "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 8, "temperature": 0.8},
    },
    "probe": {"every": 1, "prompts": 6, "samples_per_prompt": 2},
    "checkpoint_every": 1,
}  # fmt: skip


def configured(**probe: Any) -> RunConfig:
    return validate({**SETTINGS, "probe": {**SETTINGS["probe"], **probe}}, RunConfig, where="here")


def context_of(config: RunConfig, folder: Path) -> Context:
    assert config.world is not None
    return Context(Run(folder), config, config.world.build(config.seed, folder), folder, Accelerator(cpu=True), nobody)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run without variants and with all of them."""
    folder = tmp_path_factory.mktemp("runs")
    execute(configured(), folder / "plain")
    execute(configured(variants=VARIANTS), folder / "more")
    return folder / "plain", folder / "more"


@pytest.fixture(scope="module")
def records(runs: tuple[Path, Path]) -> pd.DataFrame:
    found = frame(runs[1])
    return found[found["arm"] == "static"].reset_index(drop=True)


def raw(run: Path, prompts: list[str], rows: pd.DataFrame) -> list[float]:
    replies = [Reply(text=t, finished=bool(f)) for t, f in zip(rows["response"], rows["finished"], strict=True)]
    return LearnedReward(load_reward(run / "checkpoints" / "reward")).raw(prompts, replies).tolist()


def test_training_and_plain_samples_are_bit_identical_without_variants(runs: tuple[Path, Path]) -> None:
    names = sorted(p.relative_to(runs[0]) for p in (runs[0] / "checkpoints").rglob("*.safetensors"))
    assert len(names) >= 5  # SFT, reward model, policies 0, 1, 2
    for name in names:
        a, b = (load_file(r / name) for r in runs)
        assert all((a[k] == b[k]).all() for k in a), name
    plain, more = (frame(r) for r in runs)
    same = more[more["variant"].isna()].reset_index(drop=True)
    assert same[plain.columns].astype(str).equals(plain.astype(str))
    assert same.drop(columns=plain.columns).isna().all().all()  # evaluations that apply to no plain sample


def test_every_variant_is_there_at_every_checkpoint(records: pd.DataFrame) -> None:
    counts = records.groupby(["variant", "step"]).size().unstack(fill_value=0)
    exact = {"greedy": 6, "temperature_0.5": 18, "prompt_polite": 6, "reworded_hello": 12, "demonstration": 20, "pair": 20}
    for name, rows in exact.items():
        assert counts.loc[name].tolist() == [rows] * 3, name
    assert 0 < counts.loc["cut_50"].min() <= counts.loc["cut_50"].max() <= 12
    assert counts.loc["paraphrase"].sum() > 0
    assert records["sample_id"].is_unique
    splits = records.groupby(records["variant"].fillna(""))["split"].unique().map(list).to_dict()
    assert splits["demonstration"] == ["train"]
    assert splits["pair"] == ["validation"]
    assert all(v == ["test"] for k, v in splits.items() if k not in ("demonstration", "pair"))


def test_rows_made_from_a_sample_are_its_part_its_paraphrase_or_itself(runs: tuple[Path, Path], records: pd.DataFrame) -> None:
    plain = records[records["variant"].isna()].set_index("sample_id")
    for name in ("cut_50", "paraphrase", "reworded_hello"):
        rows = records[records["variant"] == name]
        assert rows["sample_id"].str.endswith(f"~{name}").all()
        own = plain.loc[rows["sample_id"].str.rsplit("~", n=1).str[0]]
        assert rows["prompt_id"].tolist() == own["prompt_id"].tolist()
        assert rows["step"].tolist() == own["step"].tolist()
        for text, whole, ended, tokens in zip(rows["response"], own["response"], own["finished"], rows["n_tokens"], strict=True):
            words, all_words = text.split(), whole.split()
            if name == "cut_50":
                # half of the words (this world's tokens), rounded up; never all of them
                assert words == all_words[: (len(all_words) + 1) // 2] != all_words
                assert tokens == len(words)
            elif name == "paraphrase":
                assert words == [{"is": "can", "a": "the"}.get(w, w) for w in all_words] != all_words
            else:
                assert (text, ended) == (whole, ended)
        if name == "cut_50":
            assert not rows["finished"].any()
    reworded = records[records["variant"] == "reworded_hello"]
    assert reworded["prompt"].str.startswith("hello . ").all()
    assert reworded["scores.rm-0"].tolist() == pytest.approx(raw(runs[1], reworded["prompt"].tolist(), reworded), abs=1e-4)
    asked = plain.loc[reworded["sample_id"].str.rsplit("~", n=1).str[0], "gold"]
    assert reworded["gold"].tolist() == asked.tolist()  # the same reply to the same request


def test_other_decodings_and_prompts_are_the_checkpoints_own(runs: tuple[Path, Path], records: pd.DataFrame) -> None:
    policy = load_policy(runs[1] / "checkpoints" / "static" / "policy-000002")
    last = records[records["step"] == 2]
    rows = last[last["variant"] == "greedy"]
    assert rows["decoding"].map(lambda d: d["temperature"]).tolist() == [0.0] * 6
    seq = pack(
        encode_prompts(policy.tokenizer, rows["prompt"].tolist()),
        encode_replies(
            policy.tokenizer, [Reply(text=t, finished=bool(f)) for t, f in zip(rows["response"], rows["finished"], strict=True)]
        ),
        0,
    )
    with torch.no_grad():
        best = policy.logits(seq).argmax(-1)
    assert (best == seq.replies)[seq.mask].all()
    tricked = last[last["variant"] == "prompt_polite"]
    plain = last[last["variant"].isna()].drop_duplicates("prompt_id").set_index("prompt_id")
    assert tricked["prompt"].tolist() == [f"please {plain.loc[p, 'prompt']}" for p in tricked["prompt_id"]]
    # scored as replies to what was asked without the trick
    bare = [str(plain.loc[p, "prompt"]) for p in tricked["prompt_id"]]
    assert tricked["scores.rm-0"].tolist() == pytest.approx(raw(runs[1], bare, tricked), abs=1e-4)
    assert set(last.loc[last["variant"] == "temperature_0.5", "decoding"].map(lambda d: d["temperature"])) == {0.5}


def test_texts_of_others_are_scored_by_the_checkpoint(runs: tuple[Path, Path], records: pd.DataFrame) -> None:
    context = context_of(configured(), runs[1])
    known = {(str(d.prompt.text), d.reply.text): d.source for d in context.world.demonstrations()}
    for step in (0, 2):
        rows = records[(records["variant"] == "demonstration") & (records["step"] == step)]
        assert [known[p, r] for p, r in zip(rows["prompt"], rows["response"], strict=True)] == rows["policy_id"].tolist()
        policy = load_policy(runs[1] / "checkpoints" / "static" / f"policy-{step:06d}")
        ids = encode_replies(policy.tokenizer, [Reply(text=t) for t in rows["response"]])
        seq = pack(encode_prompts(policy.tokenizer, rows["prompt"].tolist()), ids, 0)
        with torch.no_grad():
            logp = policy.logprobs(seq, 0.8).sum(1)  # at the run's temperature
        assert rows["logp_policy_nats"].tolist() == pytest.approx(logp.tolist(), abs=1e-3)
        assert rows["n_tokens"].tolist() == [len(i) for i in ids]
    shown = [records[(records["variant"] == "demonstration") & (records["step"] == s)]["response"].tolist() for s in (0, 1, 2)]
    assert shown[0] == shown[1] == shown[2]
    pairs = records[(records["variant"] == "pair") & (records["step"] == 1)]
    for won, lost in zip(pairs.iloc[::2].itertuples(), pairs.iloc[1::2].itertuples(), strict=True):
        assert (won.labels[0]["other_sample_id"], won.labels[0]["preference"]) == (lost.sample_id, 1.0)
        assert (lost.labels[0]["other_sample_id"], lost.labels[0]["preference"]) == (won.sample_id, 0.0)
    chosen = {p.chosen.text for p in context.world.preferences("validation")}
    assert set(pairs.iloc[::2]["response"]) <= chosen
    start = records[(records["variant"] == "pair") & (records["step"] == 0)]
    assert start["logp_policy_nats"].tolist() == pytest.approx(start["logp_ref_nats"].tolist(), abs=1e-4)  # the policy is the reference


def test_the_first_and_the_last_checkpoint_are_enough_where_asked(tmp_path: Path) -> None:
    execute(configured(variants=["greedy"], variants_at="ends"), tmp_path / "run")
    found = frame(tmp_path / "run")
    assert sorted(found.loc[found["variant"] == "greedy", "step"].unique()) == [0, 2]


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        (["greedy", "greedy"], "distinct names"),
        ([{"kind": "prompt", "name": "x"}], "'before' or 'after'"),
        ([{"kind": "cut", "share": 1.0}], "less than 1"),
        ([{"kind": "backwards"}], "greedy"),  # the known kinds are listed
        ([{"kind": "prompt", "name": "Two Words", "before": "please"}], "pattern"),
    ],
)
def test_wrong_variants_are_refused_with_their_place(variants: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        configured(variants=variants)
    assert "probe" in str(error.value)


def test_what_the_world_lacks_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    config = configured(variants=["greedy", {"kind": "prompt", "name": "deep", "after": "take a deep breath"}])
    with pytest.raises(UserError, match="'breath' is no word") as error:
        check_probe(context_of(config, tmp_path))
    assert "probe.variants.1" in str(error.value)
    without = validate(
        {**SETTINGS, "sft": None, "world": {**SETTINGS["world"], "demonstrations": 0}, "probe": {"variants": ["demonstration"]}},
        RunConfig,
        where="here",
    )
    with pytest.raises(UserError, match="no demonstrations"):
        check_probe(context_of(without, tmp_path))


def test_words_go_around_the_last_message() -> None:
    turns = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "help"})
    assert around(turns, "please", "now") == (*turns[:2], {"role": "user", "content": "please help now"})
    assert around("help", "", "now") == "help now"
