"""PPO on advantages over what the reference earns, with selective rehearsal (Peng et al. 2023, arXiv:2309.10202).

The reward is ``a(x, y) = r(x, y) - e(x)`` with e(x) the mean score under the reference, so that prompts of different tasks weigh alike;
the model that scores is best fitted with the objective ``advantage_model``. Beside PPO's loss, cross-entropy (``ptx_coef``) on the
demonstrations that score best in each cluster keeps skills that a high mean would hide.

Deviations:
1. e(x) is estimated from the other samples of each step, weighed by reference over policy and normalised (``center: reference``), or is
   their plain mean (``group``, as in RLOO); the paper fits it with the model.
2. Clusters are k-means of mean hidden states of the critic's first weights, not of SimCSE embeddings.
3. What is rehearsed is chosen among the world's demonstrations, once, by the reward in force when the arm begins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.learn.table import Loss
from trueup.models.value import ValueModel
from trueup.ops.expectations import mean_of_others
from trueup.ops.returns import on_last
from trueup.optimizers.actor_critic import PPOSettings, first_critic
from trueup.optimizers.experience import PromptBatch, Samples, reference_gap, sample_and_score
from trueup.optimizers.ppo import PPO, PPOExperience
from trueup.optimizers.pretraining import PretrainingMix, encoded, sampled_rows
from trueup.optimizers.protocol import Parts

ROWS = 64
"""Demonstrations that are read at a time."""


class AdvantageModelPPOConfig(PPOSettings):
    """PPO on centred rewards, with rehearsal."""

    kind: Literal["advantage_model_ppo"] = "advantage_model_ppo"
    """This file."""
    num_generations: int = Field(default=4, ge=1)
    """Replies sampled for each prompt; the mean score is estimated from them."""
    ptx_coef: float = Field(default=0.1, ge=0)
    """Weight of the cross-entropy on what is rehearsed, nats per token; 0 is off."""
    center: Literal["reference", "group", "none"] = "reference"
    """Whose mean score is taken off: the reference's, the present policy's, or none."""
    bound: float | None = Field(default=None, gt=0)
    """Advantages are held within plus and minus this; not if left out."""
    clusters: int = Field(default=8, ge=1)
    """Kinds of demonstrations that rehearsal tells apart."""
    per_cluster: int = Field(default=8, ge=1)
    """Demonstrations of each that are rehearsed."""
    cluster_seed: int = 0
    """Of the first centres."""

    @model_validator(mode="after")
    def _enough_samples(self) -> AdvantageModelPPOConfig:
        if self.center != "none" and self.num_generations < 2:
            raise ValueError(f"a mean over a prompt's replies needs num_generations of at least 2, got {self.num_generations}")
        return self

    def build(self, parts: Parts) -> AdvantageModelPPO:
        """The learner."""
        return AdvantageModelPPO(self, parts, first_critic(parts, self.critic))


class AdvantageModelPPO:
    """PPO, with its rewards centred and its demonstrations chosen."""

    def __init__(self, config: AdvantageModelPPOConfig, parts: Parts, critic: ValueModel) -> None:
        self.config, self.parts = config, parts
        self.rehearsed = self._best_of_clusters(critic) if config.ptx_coef and parts.demonstrations else ()
        self.ppo = PPO(config, replace(parts, demonstrations=self._demonstrations()), critic)

    def modules(self) -> dict[str, nn.Module]:
        """The policy and the critic."""
        return self.ppo.modules()

    def state_dict(self) -> dict[str, Any]:
        """PPO's state, and which demonstrations are rehearsed: a refitted reward would choose others."""
        return {**self.ppo.state_dict(), "rehearsed": list(self.rehearsed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.ppo.load_state_dict(state)
        self.rehearsed = tuple(int(i) for i in state["rehearsed"])
        self.ppo.mix = PretrainingMix(self.parts.policy, self._demonstrations(), self.config.ptx_coef)

    def _demonstrations(self) -> tuple[Any, ...]:
        return tuple(self.parts.demonstrations[i] for i in self.rehearsed)

    @torch.no_grad()
    def _best_of_clusters(self, critic: ValueModel) -> tuple[int, ...]:
        rows = self.parts.demonstrations
        vectors, scores = [], []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            sequences = encoded(self.parts.policy, some).to(self.parts.policy.model.device)
            mask = sequences.mask[..., None].float()
            states = torch.where(sequences.mask[..., None], critic.states(sequences).float(), torch.zeros(()).to(mask.device))
            vectors.append(states.sum(1) / mask.sum(1).clamp(min=1))
            scores.append(self.parts.reward.score([d.prompt.text for d in some], [d.reply for d in some]).cpu())
        score = torch.cat(scores).double().numpy()
        return best_of_clusters(torch.cat(vectors).cpu().double().numpy(), score, self.config.clusters, self.config.per_cluster, self._key)

    @property
    def _key(self) -> Key:
        return Key(self.config.cluster_seed) / "clusters"

    def collect(self, batch: PromptBatch, key: Key) -> PPOExperience:
        """Sample, score, centre; then as PPO."""
        samples = sample_and_score(self.parts, self.config, batch, key)
        return self.ppo.experience(self._centred(samples), self.ppo.mix.draw(key, sampled_rows(batch, self.config)))

    def _centred(self, samples: Samples) -> Samples:
        """The same samples, their rewards by token less the mean score; ``score`` stays what was scored, for the metrics."""
        cfg = self.config
        if cfg.center == "none":
            expected = torch.zeros_like(samples.score)
        else:
            log_weight = -reference_gap(samples).sum(1) if cfg.center == "reference" else torch.zeros_like(samples.score)
            expected = mean_of_others(samples.score, log_weight, cfg.num_generations)
        advantage = samples.score - expected
        if cfg.bound is not None:
            advantage = advantage.clamp(-cfg.bound, cfg.bound)
        return replace(samples, token_score=samples.token_score + on_last(advantage - samples.score, samples.mask))

    def totals(self, experience: PPOExperience) -> Tensor:
        """As PPO's."""
        return self.ppo.totals(experience)

    def weigh(self, experience: PPOExperience, totals: Tensor) -> Tensor:
        """As PPO's."""
        return self.ppo.weigh(experience, totals)

    def loss(self, experience: PPOExperience, weight: Tensor) -> Loss:
        """As PPO's."""
        return self.ppo.loss(experience, weight)


def best_of_clusters(
    vectors: NDArray[np.float64], score: NDArray[np.float64], clusters: int, per_cluster: int, key: Key
) -> tuple[int, ...]:
    """Rows with the highest scores in each cluster, in their order; equal scores go by row.

    Args:
        vectors: [N, W] what is clustered.
        score: [N]
        clusters: at most N are made.
        per_cluster: rows kept of each.
        key: of the first centres.
    """
    _, label = kmeans2(vectors, min(clusters, len(vectors)), minit="++", missing="warn", rng=key.generator())
    kept: list[int] = []
    for c in np.unique(label):
        rows = np.flatnonzero(label == c)
        kept += rows[np.argsort(-score[rows], kind="stable")[:per_cluster]].tolist()
    return tuple(sorted(kept))
