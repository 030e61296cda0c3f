"""A reward model that is linear in features of the text: words, style, length, frozen sentence embeddings, or several of them side by side.

Deviations:
1. Every block of features is scaled so that the difference of the two replies of a training pair has mean square 1: one penalty fits all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn

from trueup.core.errors import UserError, one_line
from trueup.data.rendering import plain_text
from trueup.data.rows import Conversation, Reply
from trueup.learn.table import Table
from trueup.models.embedding_reward import SETTINGS, WEIGHTS
from trueup.models.embeddings import Embedder, same_embedder
from trueup.models.heads import given_head
from trueup.models.style import STYLE, style_of
from trueup.models.word_features import Words, learn_words
from trueup.stats.bootstrap import Array
from trueup.stats.ridge import Matrix

Block = Literal["words", "style", "length", "reply", "joined"]
"""Bag of words; `STYLE`; characters; embedding of the reply; embedding of prompt and reply as one text."""
EMBEDDED = ("reply", "joined")
VOCABULARY = "vocabulary.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FeatureRows(Table):
    """Features, scaled: few of many columns, and all of the others."""

    columns: Tensor
    """[B, L] int64 columns of the bag of words; the last one of all where a row has fewer."""
    values: Tensor
    """[B, L] float32; 0 where a row has fewer."""
    dense: Tensor
    """[B, D] float32."""


class Featuriser:
    """Text to features.

    Args:
        blocks: which, in order; ``words`` comes first.
        words: the vocabulary; None without that block.
        spread: deviation of each number of `STYLE`, [18]; None without that block.
        scales: what each block is multiplied by.
        embedder: None where no block needs one.
        source: how the embedder was named, so that a saved model finds it again.
    """

    def __init__(
        self,
        blocks: tuple[Block, ...],
        scales: tuple[float, ...],
        words: Words | None = None,
        spread: Array | None = None,
        embedder: Embedder | None = None,
        source: str | None = None,
    ) -> None:
        self.blocks, self.scales, self.words, self.spread, self.embedder, self.source = blocks, scales, words, spread, embedder, source

    def parts(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> list[Matrix]:
        """[N, D] of each block, scaled."""
        return [scale * self._block(name, prompts, replies) for name, scale in zip(self.blocks, self.scales, strict=True)]

    def _block(self, name: Block, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Matrix:
        texts = [r.text for r in replies]
        if name == "words":
            assert self.words is not None
            return self.words.rows(texts)
        if name == "style":
            assert self.spread is not None
            return np.array([style_of(p, t) for p, t in zip(prompts, texts, strict=True)]).reshape(-1, len(STYLE)) / self.spread
        if name == "length":
            return np.array([[float(len(t))] for t in texts]).reshape(-1, 1)
        assert self.embedder is not None
        read = texts if name == "reply" else [plain_text(p, t) for p, t in zip(prompts, texts, strict=True)]
        return self.embedder.embed(read).astype(float)


def learn_features(
    blocks: Sequence[Block],
    prompts: Sequence[Conversation],
    chosen: Sequence[Reply],
    rejected: Sequence[Reply],
    embedder: Embedder | None = None,
    source: str | None = None,
) -> Featuriser:
    """Vocabulary, rarity and scales from training pairs; which reply was preferred has no part in them.

    Args:
        blocks: which features; see `Block`.
        prompts: [N] one a pair.
        chosen: [N]
        rejected: [N]
        embedder: for ``reply`` and ``joined``.
        source: see `Featuriser`.
    """
    ordered = tuple(sorted(blocks, key=get_args(Block).index))
    replies = [*chosen, *rejected]
    words = learn_words([r.text for r in replies]) if "words" in ordered else None
    spread = None
    if "style" in ordered:
        found = np.array([style_of(p, r.text) for p, r in zip([*prompts, *prompts], replies, strict=True)]).std(0)
        spread = np.where(found > 0, found, 1.0)
    plain = Featuriser(ordered, (1.0,) * len(ordered), words, spread, embedder, source)
    both = [plain.parts(prompts, side) for side in (chosen, rejected)]
    scales = tuple(_scale(a - b) for a, b in zip(*both, strict=True))
    return Featuriser(ordered, scales, words, spread, embedder, source)


def _scale(difference: Matrix) -> float:
    square = scipy.sparse.linalg.norm(difference) if sparse.issparse(difference) else np.linalg.norm(difference)
    return float(np.sqrt(difference.shape[0]) / square) if square > 0 else 1.0


class FeatureReward:
    """A linear score of features.

    Args:
        features: text to features.
        weight: [D] over all blocks, in order.
    """

    def __init__(self, features: Featuriser, weight: Array) -> None:
        self.features = features
        self.head = given_head(weight)

    @property
    def module(self) -> nn.Module:
        """The weights."""
        return self.head

    @property
    def tokenizer(self) -> None:
        """None: it reads text only."""
        return None

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> FeatureRows:
        """Features of prompts with replies. ``finished`` has no part in them."""
        parts = self.features.parts(prompts, replies)
        bag = parts[0] if parts and sparse.issparse(parts[0]) else sparse.csr_array((len(replies), 0))
        columns, values = _padded(bag, self.head.in_features - 1)
        dense = [p for p in parts if not sparse.issparse(p)]
        rows = np.concatenate(dense, 1) if dense else np.empty((len(replies), 0))
        return FeatureRows(columns=torch.from_numpy(columns), values=torch.from_numpy(values), dense=torch.from_numpy(rows).float())

    def score(self, features: Table) -> Tensor:
        """[B] float32 scores, differentiable in the weights."""
        return self.outputs(features)[:, 0]

    def outputs(self, features: Table) -> Tensor:
        """[B, 1] float32 scores."""
        assert isinstance(features, FeatureRows)
        weight = self.head.weight[0]
        bag = (weight[features.columns] * features.values).sum(1)
        return (bag + features.dense @ weight[len(weight) - features.dense.shape[1] :])[:, None]

    def head_weight(self) -> Tensor:
        """[1, D] the weights."""
        return self.head.weight

    def save(self, folder: str | Path) -> None:
        """Write weights, vocabulary and how to find the embedder; `load_feature_reward` reads them."""
        folder, made = Path(folder), self.features
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.head.weight.detach()[0].contiguous()}
        if made.words is not None:
            tensors["rarity"] = torch.from_numpy(made.words.rarity)
            (folder / VOCABULARY).write_text(json.dumps(list(made.words.place), ensure_ascii=False) + "\n", encoding="utf-8")
        if made.spread is not None:
            tensors["spread"] = torch.from_numpy(made.spread)
        save_file(tensors, str(folder / WEIGHTS))
        settings = {
            "format": FORMAT,
            "kind": "features",
            "blocks": list(made.blocks),
            "scales": list(made.scales),
            "longest": made.words.longest if made.words else None,
            "embedder": made.source,
            "embedder_name": made.embedder.name if made.embedder else None,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_feature_reward(folder: str | Path, embedder: Embedder | None = None) -> FeatureReward:
    """Read what `FeatureReward.save` wrote.

    Args:
        folder: the saved folder.
        embedder: the trunk, where the caller has it; otherwise it is found as it was named.

    Raises:
        UserError: files are missing or broken, or the embedder found has other weights.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = {k: v.numpy() for k, v in load_file(str(folder / WEIGHTS)).items()}
        blocks, scales, name = tuple(settings["blocks"]), tuple(float(s) for s in settings["scales"]), settings["embedder_name"]
        words = None
        if "words" in blocks:
            names = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
            words = Words(place={t: j for j, t in enumerate(names)}, rarity=tensors["rarity"], longest=int(settings["longest"]))
            if len(words.place) != len(words.rarity):
                raise ValueError(f"{VOCABULARY} has {len(words.place)} terms, the weights {len(words.rarity)}")
        spread, weight = tensors["spread"] if "style" in blocks else None, tensors["weight"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"is no whole reward model of features: {one_line(error)}.", where=str(folder)) from error
    if name is not None:
        embedder = same_embedder(name, settings.get("embedder"), embedder, str(folder))
    return FeatureReward(Featuriser(blocks, scales, words, spread, embedder, settings.get("embedder")), weight)


def _padded(bag: sparse.csr_array, filler: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and values of each row, filled up to the longest: [B, L] each."""
    counts = np.diff(bag.indptr)
    width = int(counts.max(initial=0))
    columns, values = np.full((len(counts), width), filler, dtype=np.int64), np.zeros((len(counts), width), dtype=np.float32)
    here = np.arange(width) < counts[:, None]
    columns[here], values[here] = bag.indices, bag.data
    return columns, values
