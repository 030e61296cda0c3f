"""`TrueupCallback`: the training takes the same steps with and without it, and its records are right."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import trueup
from trueup import TrueupCallback, UserError
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.data.tokens import encode_replies, pack
from trueup.models.loading import recompute_activations
from trueup.models.policy import LoraSettings, adapted, load_policy
from trueup.models.tiny import tiny_llama, tiny_tokenizer
from trueup.models.undisturbed import frozen_copy, undisturbed
from trueup.pipeline.callback import weighted
from trueup.pipeline.judging import Judged, judge_name, scores_of
from trueup.report.write import write_report
from trueup.store.records import frame

WORDS = [f"w{i}" for i in range(10)]
PROMPTS = ["w1 w2", "w3", "w4 w5 w6", "w7 w8"]


def count_w1(prompts: list[str], replies: list[str]) -> list[float]:
    """Draws from every global generator, as someone's reward may."""
    torch.rand(1), np.random.random(), random.random()
    return [float(r.split().count("w1")) for r in replies]


def words_said(completions: list[str], **columns: Any) -> list[float | None]:
    return [float(len(c.split())) + w for c, w in zip(completions, columns["worth"], strict=True)]


def trained(out: Path, *callbacks: Any, adapter: bool = False, checkpointing: bool = False) -> Any:
    """A Trainer with dropout on a tiny model: six steps, evaluated and saved twice."""
    tokenizer = tiny_tokenizer(WORDS)
    model: Any = tiny_llama(len(tokenizer), 16, 1, 2, key=Key(1))
    model.config.attention_dropout = 0.2
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.2
    if adapter:
        model = adapted(model, LoraSettings(rank=2, targets=("v_proj",)))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.fill_(0.5)
    if checkpointing:
        recompute_activations(model)
    texts = [f"w{i % 10} w{(3 * i) % 10} w{(i * i) % 10}" for i in range(24)]
    rows = [{k: v for k, v in tokenizer(t).items() if k != "token_type_ids"} for t in texts]
    data = [{**r, "labels": r["input_ids"]} for r in rows]
    settings = TrainingArguments(
        output_dir=str(out),
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=3,
        save_steps=4,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=5,
    )
    trainer = Trainer(
        model=model, args=settings, train_dataset=data, eval_dataset=data[:4], processing_class=tokenizer, callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("variant", ["plain", "adapter", "checkpointing"])
def test_the_training_never_knows(variant: str, tmp_path: Path) -> None:
    settings = {variant: True} if variant != "plain" else {}
    alone = trained(tmp_path / "alone", **settings)
    probe = TrueupCallback(tmp_path / "run", PROMPTS, count_w1, every=1, max_completion_length=4, evaluations={"more": count_w1})
    watched = trained(tmp_path / "watched", probe, **settings)
    mine, theirs = alone.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    keep = ("loss", "grad_norm", "eval_loss", "step")
    logs = [[{k: r[k] for k in keep if k in r} for r in t.state.log_history if "train_runtime" not in r] for t in (alone, watched)]
    assert logs[0] == logs[1]
    assert watched.model.training == alone.model.training
    assert sorted(frame(tmp_path / "run")["step"].unique()) == list(range(7))


def test_records_are_of_the_checkpoints(tmp_path: Path) -> None:
    rows = [{"prompt": p, "worth": i} for i, p in enumerate(PROMPTS)]
    probe = TrueupCallback(
        tmp_path / "run",
        rows,
        {"w1": count_w1, "said": words_said},
        reward_weights=[2.0, 0.5],
        gold=count_w1,
        evaluations={"finished": lambda prompts, replies: [float(len(r.split()) < 4) for r in replies]},
        samples_per_prompt=3,
        max_completion_length=4,
        temperature=0.7,
        rows_at_once=5,
        seed=3,
    )
    trainer = trained(tmp_path / "training", probe)
    table = frame(tmp_path / "run")
    # the start; evaluated after 3 and 6; saved after 4 (and 6, which is also the end)
    assert table.groupby("step").size().to_dict() == {0: 12, 3: 12, 4: 12, 6: 12}
    assert table["arm"].unique().tolist() == ["policy"]
    assert table["run"].unique().tolist() == ["run"]
    worth = table["prompt"].map({p: i for i, p in enumerate(PROMPTS)})
    assert table["scores.w1"].tolist() == [float(r.split().count("w1")) for r in table["response"]]
    assert table["scores.said"].tolist() == [float(len(r.split()) + w) for r, w in zip(table["response"], worth, strict=True)]
    assert (table["proxy_fixed"] == 2 * table["scores.w1"] + 0.5 * table["scores.said"]).all()
    assert (table["proxy_current"] == table["proxy_fixed"]).all()
    assert (table["gold"] == table["scores.w1"]).all()
    # the reference is the model as training began: nothing lies between them at step 0
    start, last = table[table["step"] == 0], table[table["step"] == 6]
    assert start["kl_policy_ref_exact_nats"].abs().max() == 0
    assert (start["logp_policy_nats"] == start["logp_ref_nats"]).all()
    assert last["kl_policy_ref_exact_nats"].mean() > 1e-3
    # log-probabilities again, another way: the saved model reads the replies
    trainer.model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer(WORDS).save_pretrained(tmp_path / "saved")
    policy = load_policy(tmp_path / "saved")
    replies = [Reply(text=r, finished=f) for r, f in zip(last["response"], last["finished"], strict=True)]
    ids = [policy.tokenizer(p)["input_ids"] for p in last["prompt"]]
    again = policy.logprobs(pack(ids, encode_replies(policy.tokenizer, replies), 0), 0.7).sum(1)
    assert last["logp_policy_nats"].tolist() == pytest.approx(again.tolist(), abs=1e-4)
    assert last["logp_sampling_nats"].tolist() == pytest.approx(last["logp_policy_nats"].tolist(), abs=1e-4)
    assert last["n_tokens"].tolist() == [len(r.text.split()) + r.finished for r in replies]
    assert write_report(tmp_path / "run", key=Key(0)).html.exists()


def test_an_adapter_is_its_own_reference(tmp_path: Path) -> None:
    probe = TrueupCallback(tmp_path / "run", PROMPTS, count_w1, when=(), max_completion_length=4)
    trained(tmp_path / "training", probe, adapter=True)
    table = frame(tmp_path / "run")
    # the adapter does something from the start, and the reference is the model without it
    assert (table[table["step"] == 0]["kl_policy_ref_exact_nats"] > 1e-5).all()
    assert sorted(table["step"].unique()) == [0, 6]


def test_draws_do_not_depend_on_batches(tmp_path: Path) -> None:
    for name, rows in (("one", 1), ("all", 64)):
        trained(tmp_path / f"t-{name}", TrueupCallback(tmp_path / name, PROMPTS, count_w1, when=(), rows_at_once=rows))
    one, many = frame(tmp_path / "one"), frame(tmp_path / "all")
    assert one["response"].tolist() == many["response"].tolist()


def test_a_copy_does_not_call_what_it_was_copied_from() -> None:
    """As accelerate patches ``forward``: with a function that holds the model's own method."""
    model = tiny_llama(13, 16, 1, 2, 32, key=Key(1))
    method = model.forward
    model.forward = lambda *a, **k: method(*a, **k)  # type: ignore[method-assign]
    twin = frozen_copy(model)
    before = twin(torch.tensor([[3, 4]])).logits
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    assert torch.equal(twin(torch.tensor([[3, 4]])).logits, before)


def test_modes_come_back_one_by_one() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model.train()
    model[1].eval()
    state = torch.get_rng_state()

    def fails() -> None:
        with undisturbed(model):
            assert not model[0].training
            raise ZeroDivisionError(torch.rand(3))

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (model[0].training, model[1].training, model[1][0].training) == (True, False, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_judge_that_fails_later_costs_no_training(tmp_path: Path) -> None:
    calls = []

    def sulks(prompts: list[str], replies: list[str]) -> list[float]:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("no more")
        return [0.0] * len(replies)

    probe = TrueupCallback(tmp_path / "run", PROMPTS, sulks, when=())
    with pytest.warns(UserWarning, match=r"step 6 was not measured: no more\. Training goes on"):
        trained(tmp_path / "training", probe)
    assert frame(tmp_path / "run")["step"].unique().tolist() == [0]


def test_a_checkpoint_put_back_is_not_the_last_policy(tmp_path: Path) -> None:
    probe = TrueupCallback(tmp_path / "run", PROMPTS, count_w1, max_completion_length=4)
    given = {"model": tiny_llama(13, 16, 1, 2, 32, key=Key(1)), "processing_class": tiny_tokenizer(WORDS)}
    probe.on_train_begin(None, SimpleNamespace(is_world_process_zero=True, global_step=0), None, **given)
    end = SimpleNamespace(is_world_process_zero=True, global_step=3)
    probe.on_train_end(SimpleNamespace(load_best_model_at_end=True), end, None, **given)
    assert frame(tmp_path / "run")["step"].unique().tolist() == [0]
    probe.on_train_end(SimpleNamespace(load_best_model_at_end=False), end, None, **given)
    assert frame(tmp_path / "run")["step"].unique().tolist() == [0, 3]


def judged(count: int = 2) -> Judged:
    prompts = [Prompt(id="a", text="one"), Prompt(id="b", text=({"role": "user", "content": "two"},))]
    return Judged(
        prompts=prompts[:count], replies=[Reply(text="x"), Reply(text="y")][:count], ids=[[1], [2]], columns={"right": ["r", "s"]}
    )


def test_functions_are_called_as_they_are_written() -> None:
    seen: dict[str, Any] = {}

    def like_trl(completions: Any, right: Any, completion_ids: Any) -> list[float]:
        seen.update(completions=completions, right=right, ids=completion_ids)
        return [1.0, float("nan")]

    assert scores_of(like_trl, "f", judged()) == [1.0, None]
    assert seen == {"completions": ["x", [{"role": "assistant", "content": "y"}]], "right": ["r", "s"], "ids": [[1], [2]]}
    assert scores_of(lambda p, r: [len(str(p[0])), None], "f", judged()) == [3.0, None]
    assert judge_name("models/rm-7") == "rm-7"
    # TRL sums what rewards give and leaves out those that give nothing: 2 * 3 + nothing; nothing at all is absent
    assert weighted([3.0, None], [2.0, 5.0]) == 6.0
    assert weighted([None], [1.0]) is None
    with pytest.raises(UserError, match="'f': gave 1 scores for 2 replies"):
        scores_of(lambda p, r: [1.0], "f", judged())
    with pytest.raises(UserError, match="must give a list of numbers"):
        scores_of(lambda p, r: ["high", "low"], "f", judged())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no prompts": ({"prompts": []}, "must be distinct prompts"),
    "twice": ({"prompts": ["a", "a"]}, "must be distinct prompts"),
    "number": ({"prompts": ["a", 3]}, r"prompts\[1\]: must be a text"),
    "no reward": ({"rewards": []}, "at least one"),
    "no function": ({"rewards": [3]}, "functions, or folders"),
    "same name": ({"rewards": [count_w1, count_w1]}, "two rewards have the same name"),
    "weights": ({"reward_weights": [1.0, 2.0]}, "has 2 weights for 1 rewards"),
    "every": ({"every": 0}, "every: must be at least 1, got 0"),
    "when": ({"when": ["saves"]}, "knows no 'saves'. Did you mean 'save'"),
    "temperature": ({"temperature": 0.0}, "a temperature above 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_named_at_once(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"prompts": PROMPTS, "rewards": count_w1, **WRONG[name][0]}
    with pytest.raises(UserError, match=WRONG[name][1]):
        TrueupCallback(tmp_path / "run", **settings)


BEGIN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no tokenizer": ({}, {"processing_class": None}, "the trainer has no tokenizer"),
    "long": ({"max_completion_length": 32}, {}, "leaves no room"),
    "long prompt": ({"max_completion_length": 30}, {}, "where at most 2 fit"),
    "resumed": ({}, {"step": 4}, "goes on at step 4"),
    "no model": ({"rewards": "nowhere/at/all"}, {}, "no such folder"),
}


@pytest.mark.parametrize("name", BEGIN)
def test_what_cannot_work_is_refused_before_the_first_step(name: str, tmp_path: Path) -> None:
    settings, given, message = BEGIN[name]
    probe = TrueupCallback(tmp_path / "run", **{"prompts": PROMPTS, "rewards": count_w1, "max_completion_length": 4, **settings})
    given = {"processing_class": tiny_tokenizer(WORDS), "step": 0, **given}
    state = SimpleNamespace(is_world_process_zero=True, global_step=given.pop("step"))
    with pytest.raises(UserError, match=message):
        probe.on_train_begin(None, state, None, model=tiny_llama(13, 16, 1, 2, 32, key=Key(1)), **given)
    assert not (tmp_path / "run").exists()


def test_an_earlier_training_is_not_overwritten(tmp_path: Path) -> None:
    trained(tmp_path / "a", TrueupCallback(tmp_path / "run", PROMPTS, count_w1, when=()))
    with pytest.raises(UserError, match="records of an earlier training"):
        trained(tmp_path / "b", TrueupCallback(tmp_path / "run", PROMPTS, count_w1, when=()))
    trained(tmp_path / "c", TrueupCallback(tmp_path / "run", PROMPTS, count_w1, when=(), arm="second"))
    assert set(frame(tmp_path / "run")["arm"]) == {"policy", "second"}
    assert trueup.audit(tmp_path / "run").decisions.keys() == {"policy", "second"}
