"""Rejection sampling: fine-tuning on the best of the policy's own replies (Dong et al. 2023, arXiv:2304.06767, "RAFT").

Deviations:
1. ``select: prompt`` keeps the best of the K replies to each prompt, ``batch`` the best ``top_share`` of the whole batch, which moves
   training towards prompts with high rewards.
2. ``accumulate`` keeps the best reply to each prompt over all steps so far (as in Llama 2, Touvron et al. 2023, arXiv:2307.09288,
   and Yuan et al. 2023, arXiv:2308.01825). They are part of the learner's state, as token numbers; their scores are of the step that
   sampled them.
3. ``beta`` takes log pi/pi_ref off the reward that ranks, as the paper proposes; without it the policy goes on to the best reply.
4. Among equal rewards the first sampled is kept, a fair draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Ids, Sequences
from trueup.learn.table import Loss, Table
from trueup.ops.masking import mean_of, weighted_sum
from trueup.ops.selection import best_of_groups, best_share
from trueup.ops.weights import token_mean
from trueup.optimizers.experience import PromptBatch, penalised_score, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.protocol import OnlineConfig, Parts


class RaftConfig(OnlineConfig):
    """Imitate the best samples."""

    kind: Literal["raft"] = "raft"
    """This file."""
    num_generations: int = Field(default=8, ge=2)
    """Replies sampled for each prompt (K)."""
    beta: float = Field(default=0.0, ge=0)
    """KL coefficient of the reward that ranks."""
    select: Literal["prompt", "batch"] = "prompt"
    """Best reply of each prompt, or best replies of the batch."""
    top_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the batch that ``select: batch`` keeps, rounded up to whole replies."""
    accumulate: bool = False
    """Keep the best reply to each prompt over all steps."""

    @model_validator(mode="after")
    def _combinations(self) -> RaftConfig:
        if self.accumulate and (self.select == "batch" or self.beta > 0):
            raise ValueError(
                "accumulate keeps the best reply of each prompt by its score; set select: prompt and beta: 0, or accumulate: false"
            )
        if self.importance_cap is not None:
            raise ValueError("importance_cap corrects a mean over samples, and what is selected is none; leave it out")
        return self

    def build(self, parts: Parts) -> Raft:
        """The learner."""
        return Raft(self, parts)


@dataclass(frozen=True, kw_only=True)
class RaftExperience(Table):
    """Samples, and which of them are learned from."""

    sequences: Sequences
    """Where ``accumulate`` is on, the row of a prompt's best sample holds the best reply so far."""
    kept: Tensor
    """[B] bool"""
    kept_score: Tensor
    """[B] score of the reply in that row."""
    score: Tensor
    """[B] of the sample."""
    finished: Tensor
    """[B]"""
    kl: Tensor
    """[B] log pi - log pi_ref of the sample (k1), nats."""
    sampling_gap: Tensor
    """[B] nats."""


class Raft:
    """Samples, keeps the best, imitates them."""

    def __init__(self, config: RaftConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.best: dict[str, dict[str, Any]] = {}

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def state_dict(self) -> dict[str, Any]:
        """The best reply to each prompt so far: by the prompt's token numbers, its score and its token numbers."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best replies."""
        self.best = {prompt: dict(found) for prompt, found in state["best"].items()}

    def collect(self, batch: PromptBatch, key: Key) -> RaftExperience:
        """Sample, score, select."""
        cfg = self.config
        samples = sample_and_score(self.parts, cfg, batch, key)
        reward = penalised_score(samples, cfg)
        kl = reference_gap(samples).sum(1)
        ranked = reward - cfg.beta * kl
        if cfg.select == "prompt":
            kept = best_of_groups(ranked, cfg.num_generations)
        else:
            kept = self._of_whole_batch(ranked, int(batch.row[0]) * cfg.num_generations)
        e = RaftExperience(
            sequences=samples.sequences,
            kept=kept,
            kept_score=reward,
            score=samples.score,
            finished=samples.finished,
            kl=kl,
            sampling_gap=sampling_gap(samples),
        )
        return self._with_best_so_far(e, batch) if cfg.accumulate else e

    def totals(self, experience: RaftExperience) -> Tensor:
        """[1] tokens of what is kept."""
        return experience.sequences.mask[experience.kept].sum().double().cpu().view(1)

    def weigh(self, experience: RaftExperience, totals: Tensor) -> Tensor:
        """[B, T] every kept token counts the same."""
        return token_mean(experience.sequences.mask, totals[0].item()) * experience.kept[:, None]

    def loss(self, experience: RaftExperience, weight: Tensor) -> Loss:
        """Weighted sum of minus log-probability; rows that are not kept are not computed."""
        e = experience
        rows = e.kept.nonzero().squeeze(1)
        used = rows if len(rows) else rows.new_zeros(1)  # one row of weight 0, so that there is a graph
        sequences = e.sequences.take(used)
        logp = self.parts.policy.logprobs(sequences, self.config.temperature)
        kept = sequences.mask & e.kept[used][:, None]
        return Loss(
            weighted_sum(-logp, weight[used], sequences.mask),
            {
                "nll_nats": mean_of(-logp, kept),
                "reward": mean_of(e.score),
                "reward/kept": mean_of(e.kept_score, e.kept),
                "objective/kl": mean_of(e.kl),
                "objective/rlhf_reward": mean_of(e.score - self.config.beta * e.kl),
                "completions/mean_length": mean_of(e.sequences.mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )

    def _of_whole_batch(self, ranked: Tensor, first: int) -> Tensor:
        """[B] whether a row is among the best of all processes' rows; ``first`` is the global number of the first."""
        everything = self._everywhere(ranked, first)
        return best_share(everything, self.config.top_share)[first : first + len(ranked)]

    def _everywhere(self, column: Tensor, first: int) -> Tensor:
        """[N, ...] a column of this process's rows, made whole over processes: each writes its rows into zeros, and they are summed."""
        add = self.parts.sum_over_processes
        rows = int(add(torch.tensor(float(len(column)), device=column.device)).item())
        whole = column.new_zeros((rows, *column.shape[1:]))
        whole[first : first + len(column)] = column
        return add(whole)

    def _with_best_so_far(self, e: RaftExperience, batch: PromptBatch) -> RaftExperience:
        """Update the best replies from all processes' rows, in their global order, and put them in place of this step's."""
        rows, first = e.kept.nonzero().squeeze(1), int(batch.row[0])
        mine = e.sequences.take(rows)
        widths = self._everywhere(rows.new_tensor([mine.prompt_width] * len(rows)), first)
        wide = mine.widen(int(widths.max()), self.config.max_completion_length, 0)
        real = wide.attention().bool()
        codes = self._everywhere(torch.where(real, wide.tokens + 1, 0), first)  # 0 is padding
        scores = self._everywhere(e.kept_score[rows], first)
        for code, score in zip(codes.tolist(), scores.tolist(), strict=True):
            prompt, reply = ([t - 1 for t in part if t] for part in (code[: wide.prompt_width], code[wide.prompt_width :]))
            if score > self.best.get(_named(prompt), {"score": -math.inf})["score"]:
                self.best[_named(prompt)] = {"score": score, "tokens": reply}
        found = [self.best[_named(list(ids))] for ids in batch.ids]
        return replace(
            e,
            sequences=_with_replies(e.sequences, rows, [f["tokens"] for f in found]),
            kept_score=e.kept_score.index_put((rows,), e.kept_score.new_tensor([f["score"] for f in found])),
        )


def _named(ids: Ids) -> str:
    """The name of a prompt in the state."""
    return " ".join(map(str, ids))


def _with_replies(sequences: Sequences, rows: Tensor, replies: list[Ids]) -> Sequences:
    """The table with other replies in some rows."""
    width = max(sequences.mask.shape[1], *map(len, replies))
    wide = sequences.widen(sequences.prompt_width, width, 0)
    tokens, mask = wide.tokens.clone(), wide.mask.clone()
    for row, reply in zip(rows.tolist(), replies, strict=True):
        mask[row] = torch.arange(width, device=mask.device) < len(reply)
        tokens[row, wide.prompt_width : wide.prompt_width + len(reply)] = tokens.new_tensor(reply)
    return replace(wide, tokens=tokens, mask=mask)
