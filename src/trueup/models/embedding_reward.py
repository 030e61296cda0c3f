"""A reward model on frozen sentence embeddings: the trunk is computed once a text, only a small head is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trueup.core.errors import UserError, one_line
from trueup.core.rng import Key
from trueup.data.rendering import plain_text
from trueup.data.rows import Conversation, Reply
from trueup.learn.table import Table
from trueup.models.embeddings import Embedder, same_embedder
from trueup.models.heads import fresh_head
from trueup.models.loading import seeded

Features = Literal["reply", "joined", "both"]
SETTINGS, WEIGHTS = "reward.json", "head.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Embedded(Table):
    """Frozen features."""

    vectors: Tensor
    """[B, D] float32."""


class EmbeddingReward:
    """A linear or one-hidden-layer head on frozen sentence embeddings.

    Args:
        embedder: the frozen trunk.
        head: [B, D] -> [B, H].
        features: what is embedded: the ``reply`` alone, prompt and reply ``joined`` in one text, or ``both`` side by side.
        source: how the embedder was named, so that a saved model finds it again.
    """

    def __init__(self, embedder: Embedder, head: nn.Sequential, features: Features = "joined", source: str | None = None) -> None:
        self.embedder, self.head, self.features, self.source = embedder, head, features, source

    @property
    def module(self) -> nn.Module:
        """The head."""
        return self.head

    @property
    def tokenizer(self) -> None:
        """None: it reads text only."""
        return None

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Embedded:
        """Frozen vectors of prompts with replies. ``finished`` has no part in them."""
        texts = [r.text for r in replies]
        joined = [plain_text(p, r.text) for p, r in zip(prompts, replies, strict=True)]
        if self.features == "both":
            both = torch.from_numpy(self.embedder.embed(texts + joined))
            return Embedded(vectors=torch.cat([both[: len(texts)], both[len(texts) :]], 1))
        return Embedded(vectors=torch.from_numpy(self.embedder.embed(texts if self.features == "reply" else joined)))

    def score(self, features: Table) -> Tensor:
        """[B] float32 raw scores, differentiable in the head."""
        return self.outputs(features)[:, 0]

    def outputs(self, features: Table) -> Tensor:
        """[B, H] float32 outputs of the head."""
        assert isinstance(features, Embedded)
        found: Tensor = self.head(features.vectors)
        return found

    def head_weight(self) -> Tensor:
        """[H, W] weights of the last layer."""
        weight = self.head[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def save(self, folder: str | Path) -> None:
        """Write the head and how to find its embedder; `load_embedding_reward` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().contiguous() for k, v in self.head.state_dict().items()}, str(folder / WEIGHTS))
        settings = {
            "format": FORMAT,
            "kind": "embedding",
            "features": self.features,
            "hidden_size": self.head[0].out_features if len(self.head) > 1 else 0,
            "outputs": self.head[-1].out_features,
            "embedder": self.source,
            "embedder_name": self.embedder.name,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def new_embedding_reward(
    embedder: Embedder,
    key: Key,
    *,
    hidden_size: int = 0,
    features: Features = "joined",
    source: str | None = None,
    outputs: int = 1,
) -> EmbeddingReward:
    """A fresh head, drawn from ``key``; its last layer from N(0, 1 / (d + 1)).

    Args:
        embedder: the frozen trunk.
        key: of the head's weights.
        hidden_size: width of the hidden layer (tanh); 0 for a linear head.
        features: see `EmbeddingReward`.
        source: see `EmbeddingReward`.
        outputs: of the head; the first is the score.
    """
    width = embedder.dimension * (2 if features == "both" else 1)
    return EmbeddingReward(embedder, _head(width, hidden_size, key, outputs), features, source)


def load_embedding_reward(folder: str | Path, embedder: Embedder | None = None) -> EmbeddingReward:
    """Read what `EmbeddingReward.save` wrote.

    Args:
        folder: the saved folder.
        embedder: the trunk, where the caller has it; otherwise it is found as it was named.

    Raises:
        UserError: files are missing or broken, or the embedder found has other weights.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        weights = load_file(str(folder / WEIGHTS))
        features, hidden, name = settings["features"], settings["hidden_size"], settings["embedder_name"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"is no whole embedding reward model: {one_line(error)}.", where=str(folder)) from error
    embedder = same_embedder(name, settings.get("embedder"), embedder, str(folder))
    reward = new_embedding_reward(
        embedder, Key(0), hidden_size=hidden, features=features, source=settings.get("embedder"), outputs=settings.get("outputs", 1)
    )
    try:
        reward.head.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the head's weights do not fit: {one_line(error)}.", where=str(folder / WEIGHTS)) from error
    return reward


def _head(width: int, hidden_size: int, key: Key, outputs: int) -> nn.Sequential:
    with seeded(key / "hidden"):
        layers = [nn.Linear(width, hidden_size), nn.Tanh()] if hidden_size else []
        last = nn.Linear(hidden_size or width, outputs)
    fresh_head(last, key / "head")
    return nn.Sequential(*layers, last)
