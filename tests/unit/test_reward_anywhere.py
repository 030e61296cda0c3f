"""Any sequence classifier with one label is a reward model here, and ours are ones everywhere: transformers and TRL read the same."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

import trueup
from trueup.cli.main import invoke
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply
from trueup.models.loading import seeded
from trueup.models.policy import LoraSettings
from trueup.models.reward import EncoderReward, TrunkReward, load_reward
from trueup.models.reward_adapter import with_adapter

WORDS = ["ask", "tell", "good", "bad", "dull", "more"]
PROMPTS = ["ask", "ask tell more", "tell", "ask tell"]
REPLIES = [Reply(text="good"), Reply(text="bad dull good more"), Reply(text="good good"), Reply(text="dull")]
EXACT = {"rtol": 0, "atol": 1e-6}


def tokenizer_of(pad: str | None, *, encoder: bool = False) -> PreTrainedTokenizerFast:
    """Words, an end and, where asked, a token for padding."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if encoder else ["<pad>", "<eos>", "<other>"]
    words = {w: i for i, w in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]" if encoder else "<other>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if encoder:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token=pad)


def published(folder: Path, kind: str, pad: str | None = "<pad>", labels: int = 1) -> Path:
    """A reward model as somebody else would have saved it: random weights, of a size at which every token matters."""
    encoder = kind in ("bert", "deberta")
    tokenizer = tokenizer_of("[PAD]" if encoder else pad, encoder=encoder)
    same = {"vocab_size": len(tokenizer), "num_labels": labels}
    wide = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 24}
    with seeded(Key(4)):
        if kind == "gpt2":
            config: Any = GPT2Config(**same, n_embd=16, n_layer=2, n_head=2, n_positions=24, bos_token_id=1, eos_token_id=1)
            model: Any = GPT2ForSequenceClassification(config)
        elif kind == "llama":
            model = LlamaForSequenceClassification(LlamaConfig(**same, **wide, bos_token_id=None, eos_token_id=1))
        else:
            config = BertConfig(**same, **wide) if kind == "bert" else DebertaV2Config(**same, **wide, relative_attention=True)
            model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.mul_(5)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def theirs(folder: Path, texts: list[str], side: str = "right", **more: Any) -> torch.Tensor:
    """Scores by transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer.padding_side = side
    with torch.no_grad():
        return model(**tokenizer(texts, return_tensors="pt", padding=len(texts) > 1, add_special_tokens=False, **more)).logits[:, 0]


def ours(folder: Path, replies: list[Reply] = REPLIES) -> torch.Tensor:
    reward = load_reward(folder)
    with torch.no_grad():
        return reward.score(reward.encode(PROMPTS, replies))


def joined(end: str) -> list[str]:
    return [f"{p} {r.text}{end}" for p, r in zip(PROMPTS, REPLIES, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_causal_reward_model_reads_as_transformers_does(side: str, tmp_path: Path) -> None:
    found = ours(published(tmp_path / "rm", "llama"))
    assert (found[:, None] - found).abs()[~torch.eye(4, dtype=torch.bool)].min() > 1e-3
    torch.testing.assert_close(found, theirs(tmp_path / "rm", joined(" <eos>"), side), **EXACT)
    load_reward(tmp_path / "rm").save(tmp_path / "ours")
    torch.testing.assert_close(theirs(tmp_path / "ours", joined(" <eos>"), side), found, **EXACT)


def test_gpt2_with_padding_padded_on_the_right(tmp_path: Path) -> None:
    """On the left its absolute positions count padding, in transformers' own forward."""
    found = ours(published(tmp_path, "gpt2"))
    torch.testing.assert_close(found, theirs(tmp_path, joined(" <eos>")), **EXACT)


def test_padding_with_eos_is_read_before_eos_as_transformers_does(tmp_path: Path) -> None:
    found = ours(published(tmp_path / "rm", "gpt2", pad="<eos>"))
    for end in ("", " <eos>"):
        torch.testing.assert_close(found, theirs(tmp_path / "rm", joined(end)), **EXACT)
    unfinished = [Reply(text=r.text, finished=False) for r in REPLIES]
    torch.testing.assert_close(ours(tmp_path / "rm", unfinished), found, **EXACT)
    reward = load_reward(tmp_path / "rm")
    assert isinstance(reward, TrunkReward)
    assert not reward.reads_eos
    features = reward.encode(PROMPTS, REPLIES)
    assert reward.from_policy_tokens(features, reward.tokenizer) is None  # a policy's tokens end in eos
    reward.save(tmp_path / "again")
    torch.testing.assert_close(ours(tmp_path / "again"), found, **EXACT)


def test_without_padding_token_any_will_do(tmp_path: Path) -> None:
    found = ours(published(tmp_path / "rm", "gpt2", pad=None))
    alone = torch.cat([theirs(tmp_path / "rm", [text]) for text in joined(" <eos>")])  # transformers itself takes one row at a time
    torch.testing.assert_close(found, alone, **EXACT)
    load_reward(tmp_path / "rm").save(tmp_path / "ours")
    torch.testing.assert_close(theirs(tmp_path / "ours", joined(" <eos>")), found, **EXACT)  # ours says what pads
    chosen = load_reward(tmp_path / "rm", pad_token="dull")
    torch.testing.assert_close(chosen.score(chosen.encode(PROMPTS, REPLIES)), found, **EXACT)
    with pytest.raises(UserError, match="pad_token 'none' is not in the vocabulary"):
        load_reward(tmp_path / "rm", pad_token="none")


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_encoders_read_as_transformers_does(kind: str, tmp_path: Path) -> None:
    published(tmp_path / "rm", kind)
    reward = load_reward(tmp_path / "rm")
    assert isinstance(reward, EncoderReward)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "rm"), AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    row = tokenizer(PROMPTS, [r.text for r in REPLIES], return_tensors="pt", padding=True, return_token_type_ids=kind == "bert")
    with torch.no_grad():
        expected = model.eval()(**row).logits[:, 0]
    torch.testing.assert_close(ours(tmp_path / "rm"), expected, **EXACT)
    reward.save(tmp_path / "ours")
    torch.testing.assert_close(ours(tmp_path / "ours"), expected, **EXACT)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_classifier_of_two_labels_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="with 2 labels, not a reward model"):
        load_reward(published(tmp_path, kind, labels=2))


def test_they_are_examined_from_the_command_line_and_python(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kinds = {"deberta": "[PAD]", "ended": "<eos>", "bare": None}
    for name, pad in kinds.items():
        published(tmp_path / name, name if name == "deberta" else "gpt2", pad)
    pairs = [(p, a, b) for p in PROMPTS for a in ("good", "good more", "good good") for b in ("bad", "dull bad", "dull")]
    rows = "".join(json.dumps({"prompt": p, "chosen": a, "rejected": b}) + "\n" for p, a, b in pairs)
    (tmp_path / "pairs.jsonl").write_text(rows)
    named = [word for name in kinds for word in ("--reward-model", str(tmp_path / name))]
    assert invoke(["reward", "evaluate", *named, "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "card"), "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)["models"]) == set(kinds)
    for name in kinds:
        reward = load_reward(tmp_path / name)
        prompts = [p for p, _, _ in pairs]
        with torch.no_grad():
            first, second = (reward.score(reward.encode(prompts, [Reply(text=row[k]) for row in pairs])) for k in (1, 2))
        found = trueup.evaluate(tmp_path / name, tmp_path / "pairs.jsonl")
        assert found["accuracy"].value == pytest.approx((first > second).double().mean().item(), abs=1e-6)
        assert found["margin"].value == pytest.approx((first - second).mean().item(), abs=1e-5)
        assert "nll_calibrated" not in found


def test_a_kept_calibration_is_applied_to_chances_only(tmp_path: Path) -> None:
    from trueup.rewards.calibrated import save_calibration
    from trueup.stats.recalibration import Calibration, Calibrator

    published(tmp_path, "gpt2")
    rows = zip(PROMPTS[1:], REPLIES[1:], strict=True)
    pairs = [Preference(id=p, prompt=Prompt(id=p, text=p), chosen=r, rejected=REPLIES[0]) for p, r in rows]
    before = trueup.evaluate(tmp_path, pairs)
    save_calibration(tmp_path, Calibration(pooled=Calibrator(method="temperature", slope=0.0, n=9)))
    after = trueup.evaluate(tmp_path, pairs)
    # a slope of 0 says 1/2 of every pair: log 2 nats
    assert after["nll_calibrated"].value == pytest.approx(0.693147, abs=1e-6)
    assert {k: v for k, v in after.items() if k != "nll_calibrated"} == before


def test_a_merged_adapter_reads_everywhere(tmp_path: Path) -> None:
    for kind in ("llama", "gpt2"):
        published(tmp_path / kind, kind)
        reward = load_reward(tmp_path / kind)
        assert isinstance(reward, TrunkReward)
        before = ours(tmp_path / kind)
        with_adapter(reward, LoraSettings(rank=2), Key(7))
        features = reward.encode(PROMPTS, REPLIES)
        torch.testing.assert_close(reward.score(features).detach(), before, **EXACT)  # it starts as the identity
        trained = {n for n, p in reward.module.named_parameters() if p.requires_grad}
        assert trained
        assert all("lora_" in n or n.endswith("score.weight") for n in trained)
        assert any(n.endswith("score.weight") for n in trained)
        with torch.no_grad():
            for name, p in reward.module.named_parameters():
                if "lora_B" in name:
                    p.fill_(0.05)
        changed = reward.score(features).detach()
        assert (changed - before).abs().min() > 1e-3
        reward.save(tmp_path / f"{kind}-merged")
        torch.testing.assert_close(ours(tmp_path / f"{kind}-merged"), changed, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs(tmp_path / f"{kind}-merged", joined(" <eos>")), changed, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"no linear layers named \['c_attn'\]. Its layers: down_proj, gate_proj"):
        with_adapter(load_reward(tmp_path / "llama"), LoraSettings(targets=("q_proj", "c_attn")), Key(7))  # type: ignore[arg-type]
    with_other_seed = with_adapter(load_reward(tmp_path / "llama"), LoraSettings(rank=2), Key(8))  # type: ignore[arg-type]
    again, same = (with_adapter(load_reward(tmp_path / "llama"), LoraSettings(rank=2), Key(7)) for _ in range(2))  # type: ignore[arg-type]
    first = [{n: p for n, p in r.module.named_parameters() if "lora_A" in n} for r in (again, same, with_other_seed)]
    assert all(torch.equal(first[0][n], first[1][n]) and not torch.equal(first[0][n], first[2][n]) for n in first[0])


@pytest.fixture
def trl() -> Any:
    """TRL, where it is installed; it and what it imports warn at will."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("trl", minversion="1.16")


@pytest.mark.filterwarnings("ignore")
def test_trl_reads_the_same_scores(trl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = published(tmp_path / "rm", "llama")
    load_reward(folder).save(tmp_path / "ours")
    folder = tmp_path / "ours"
    reward = load_reward(folder)
    # its reward trainer: prompt and reply in one, eos at the end
    rows = [{"prompt": f"{p} ", "chosen": r.text, "rejected": "bad"} for p, r in zip(PROMPTS, REPLIES, strict=True)]
    quiet = {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    settings = trl.RewardConfig(output_dir=str(tmp_path / "a"), per_device_train_batch_size=4, max_length=None, **quiet)
    trainer = trl.RewardTrainer(model=str(folder), args=settings, train_dataset=Dataset.from_list(rows))
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        found = trainer.model.eval()(**batch).logits[:, 0]
        mine = torch.cat([reward.score(reward.encode(PROMPTS, side)) for side in (REPLIES, [Reply(text="bad")] * 4)])
    torch.testing.assert_close(found, mine, **EXACT)
    # as a reward of its policy trainer, which decodes replies without eos
    policy = tmp_path / "policy"
    _policy(policy)
    settings = trl.GRPOConfig(output_dir=str(tmp_path / "b"), per_device_train_batch_size=2, num_generations=2, **quiet)
    prompts = [r["prompt"] for r in rows]
    online = trl.GRPOTrainer(
        model=str(policy), reward_funcs=str(folder), args=settings, train_dataset=Dataset.from_list([{"prompt": p} for p in prompts])
    )
    told = online._calculate_rewards([{"prompt": p} for p in prompts], prompts, [r.text for r in REPLIES], [[2]] * 4)
    with torch.no_grad():
        unfinished = reward.score(reward.encode(PROMPTS, [Reply(text=r.text, finished=False) for r in REPLIES]))
    torch.testing.assert_close(told[:, 0], unfinished, **EXACT)


def _policy(folder: Path) -> None:
    from trueup.models.policy import Policy
    from trueup.models.tiny import tiny_llama, tiny_tokenizer

    tokenizer = tiny_tokenizer(WORDS)
    Policy(tiny_llama(len(tokenizer), 16, 1, 2, 24, key=Key(0)), tokenizer).save(folder)
