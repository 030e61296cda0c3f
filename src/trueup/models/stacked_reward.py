"""Several trained reward models as one: the weighted sum of their scores, saved and loaded as a single folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trueup.core.errors import UserError, one_line
from trueup.data.rows import Conversation, Reply
from trueup.learn.table import Table
from trueup.models.embedding_reward import SETTINGS, WEIGHTS, EmbeddingReward, load_embedding_reward
from trueup.models.embeddings import Embedder
from trueup.models.feature_reward import FeatureReward, load_feature_reward
from trueup.models.heads import given_head
from trueup.stats.bootstrap import Array

TextReward = EmbeddingReward | FeatureReward
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class MemberScores(Table):
    """What the members say."""

    scores: Tensor
    """[B, M] float32."""


class StackedReward:
    """A weighted sum of the scores of members, which stay as they are; what can be trained are the weights.

    Args:
        members: by name, in order.
        weight: [M] of each member's raw score.
    """

    def __init__(self, members: Mapping[str, TextReward], weight: Array) -> None:
        self.members = dict(members)
        self.head = given_head(weight)

    @property
    def module(self) -> nn.Module:
        """The weights of the members."""
        return self.head

    @property
    def tokenizer(self) -> None:
        """None: it reads text only."""
        return None

    @torch.no_grad()
    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> MemberScores:
        """Raw scores of the members."""
        found = [m.score(m.encode(prompts, replies)).float() for m in self.members.values()]
        return MemberScores(scores=torch.stack(found, 1))

    def score(self, features: Table) -> Tensor:
        """[B] float32 scores, differentiable in the weights."""
        return self.outputs(features)[:, 0]

    def outputs(self, features: Table) -> Tensor:
        """[B, 1] float32 scores."""
        assert isinstance(features, MemberScores)
        found: Tensor = self.head(features.scores)
        return found

    def head_weight(self) -> Tensor:
        """[1, M] the weights."""
        return self.head.weight

    def save(self, folder: str | Path) -> None:
        """Write the weights, and each member in a folder of its own name; `load_stacked_reward` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, member in self.members.items():
            member.save(folder / name)
        save_file({"weight": self.head.weight.detach()[0].contiguous()}, str(folder / WEIGHTS))
        settings = {"format": FORMAT, "kind": "stacked", "members": list(self.members)}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_stacked_reward(folder: str | Path, embedder: Embedder | None = None) -> StackedReward:
    """Read what `StackedReward.save` wrote.

    Raises:
        UserError: files are missing or broken.
    """
    folder = Path(folder)
    try:
        names = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["members"]
        weight = load_file(str(folder / WEIGHTS))["weight"].numpy()
        if len(names) != len(weight) or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise ValueError(f"{len(names)} members, {len(weight)} weights")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"is no whole stacked reward model: {one_line(error)}.", where=str(folder)) from error
    return StackedReward({name: _member(folder / name, embedder) for name in names}, weight)


def load_text_reward(folder: str | Path, embedder: Embedder | None = None) -> TextReward | StackedReward:
    """A saved reward model that reads text only, whichever it is.

    Args:
        folder: the saved folder.
        embedder: the trunk, where the caller has it; otherwise it is found as it was named.

    Raises:
        UserError: no such model, or a broken one.
    """
    kinds: dict[str, Callable[[str | Path, Embedder | None], TextReward | StackedReward]] = {
        "embedding": load_embedding_reward,
        "features": load_feature_reward,
        "stacked": load_stacked_reward,
    }
    path = Path(folder) / SETTINGS
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("kind", "embedding")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"is no reward model of ours: {one_line(error)}.", where=str(path)) from error
    if kind not in kinds:
        raise UserError(f"is a reward model of kind '{kind}', which is not known here. Kinds: {', '.join(kinds)}.", where=str(path))
    return kinds[kind](folder, embedder)


def _member(folder: Path, embedder: Embedder | None) -> TextReward:
    found = load_text_reward(folder, embedder)
    if isinstance(found, StackedReward):
        raise UserError("a member of a stacked reward model cannot be stacked itself.", where=str(folder))
    return found
