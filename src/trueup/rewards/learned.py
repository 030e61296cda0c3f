"""A reward model as a reward: its raw score, shifted and scaled on reference samples so that the KL coefficient keeps its meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.learn.table import Table
from trueup.models.reward import RewardModel, TrunkReward
from trueup.store.atomic import write_text

SCALE_FILE = "trueup_scale.json"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """``reward = gain * raw + shift``."""

    gain: float = 1.0
    shift: float = 0.0
    n: int = 0
    """Reference samples it was measured on."""


class LearnedReward:
    """A trained reward model, rescaled.

    Args:
        model: gives raw scores.
        scale: the affine map to reward units.
        policy_tokenizer: of the policy whose sequences may come with texts; where the model shares it, encoding is saved.
        folder: where it was saved, if it was.
        rows: rows scored at a time.
    """

    def __init__(
        self,
        model: RewardModel,
        scale: Scale | None = None,
        policy_tokenizer: PreTrainedTokenizerFast | None = None,
        folder: Path | None = None,
        rows: int = 256,
    ) -> None:
        self.model, self.scale, self.policy_tokenizer = model, scale or Scale(), policy_tokenizer
        self.folder, self.rows = folder, rows

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Rescaled scores; see `Reward.score`."""
        return self.scale.gain * self.raw(prompts, replies, sequences) + self.scale.shift

    @torch.no_grad()
    def raw(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Scores as the model gives them, float32."""
        features: Table | None = None
        if sequences is not None and self.policy_tokenizer is not None and isinstance(self.model, TrunkReward):
            features = self.model.from_policy_tokens(sequences, self.policy_tokenizer)
        if features is None:
            features = self.model.encode(prompts, replies)
        if len(features) <= self.rows:
            return self.model.score(features).float()
        return torch.cat([self.model.score(features.take(rows)).float() for rows in torch.arange(len(features)).split(self.rows)])


def measure_scale(raw: Tensor, *, mean: float = 0.0, std: float = 1.0) -> Scale:
    """The affine map that gives raw scores of reference samples this mean and (population) deviation (Ziegler et al. 2019, section 2.1).

    Args:
        raw: [N] scores of samples of the reference policy.
        mean: target mean.
        std: target standard deviation.
    """
    spread = raw.double().std(correction=0).item()
    gain = std / spread if spread > 1e-12 else 1.0
    return Scale(gain=gain, shift=mean - gain * raw.double().mean().item(), n=len(raw))


def save_reward(folder: Path, reward: LearnedReward) -> None:
    """Write the model (an ordinary Hugging Face folder where the head allows) and its scale."""
    reward.model.save(folder)
    write_text(folder / SCALE_FILE, json.dumps(asdict(reward.scale)))


def read_scale(folder: Path) -> Scale:
    """The scale stored with a reward model; the identity where there is none."""
    path = folder / SCALE_FILE
    return Scale(**json.loads(path.read_text())) if path.exists() else Scale()
