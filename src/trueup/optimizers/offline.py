"""Learning from given pairs: the first half of every optimizer that does not sample, and the learner of those that need no more."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Judged, Reply
from trueup.data.tokens import Sequences, encode_prompts, encode_replies, fit, pack
from trueup.learn.learner import Stateless
from trueup.learn.table import Examples, Loss, Mean, Table
from trueup.models.policy import Policy, Reference
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.weights import row_mean
from trueup.optimizers.protocol import OfflineConfig, Parts


@dataclass(frozen=True, kw_only=True)
class PairExperience(Table):
    """Encoded pairs."""

    sequences: Sequences
    """Every column [B, 2, ...], the chosen reply first."""
    logp_ref: Tensor
    """[B, 2] log-probability of the replies under the reference, nats."""


class PairConfig(OfflineConfig):
    """Settings of optimizers whose loss is a function of the log-probabilities of a pair's replies."""

    uses_reward: ClassVar[bool] = False

    def build(self, parts: Parts) -> PairLearner:
        """The learner."""
        return PairLearner(self, parts)

    @abstractmethod
    def pair_loss(self, logp: Tensor, logp_ref: Tensor, tokens: Tensor) -> Tensor:
        """[B] Loss of each pair.

        Args:
            logp: [B, 2] log-probability of the chosen and of the rejected reply, differentiable; nats.
            logp_ref: [B, 2] under the reference.
            tokens: [B, 2] tokens of the replies, end-of-sequence included.
        """

    @abstractmethod
    def implicit_reward(self, logp: Tensor, logp_ref: Tensor) -> Tensor:
        """[B, 2] What the policy itself says both replies are worth; for the metrics.

        Args:
            logp: [B, 2] nats.
            logp_ref: [B, 2] nats.
        """


class PairLearner(Stateless):
    """Raises or lowers both replies of a pair as the configuration's loss says."""

    def __init__(self, config: PairConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: Examples[Judged], key: Key) -> PairExperience:
        """Encode the pairs; ask the reference once."""
        sequences = encode_pairs(self.parts.policy, batch)
        return PairExperience(sequences=sequences, logp_ref=pair_logps(self.parts.reference, sequences))

    def totals(self, experience: PairExperience) -> Tensor:
        """[1] pairs."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: PairExperience, totals: Tensor) -> Tensor:
        """[B] every pair counts the same."""
        return row_mean(experience.logp_ref, totals[0].item())

    def loss(self, experience: PairExperience, weight: Tensor) -> Loss:
        """Weighted sum of the configuration's loss."""
        e = experience
        logp = pair_logps(self.parts.policy, e.sequences)
        loss = self.config.pair_loss(logp, e.logp_ref, e.sequences.mask.sum(2))
        return Loss(weighted_sum(loss, weight), pair_metrics(logp, self.config.implicit_reward(logp, e.logp_ref)))


def encode_pairs(policy: Policy, batch: Examples[Judged]) -> Sequences:
    """Chosen and rejected replies with their prompt, every column [B, 2, ...].

    Where the context is too short for the longer reply, both lose the same tokens on the prompt's left.

    Raises:
        UserError: a group is no pair with a winner, or a reply leaves no room for its prompt.
    """
    tokenizer = policy.tokenizer
    replies = [encode_replies(tokenizer, side) for side in zip(*(chosen_rejected(g) for g in batch.example), strict=True)]
    longer = [max(a, b, key=len) for a, b in zip(*replies, strict=True)]
    prompts = fit(tokenizer, encode_prompts(tokenizer, [g.prompt.text for g in batch.example]), longer, policy.max_tokens)
    rows = [reply for pair in zip(*replies, strict=True) for reply in pair]
    return pack([p for p in prompts for _ in range(2)], rows, tokenizer.pad_token_id).to(policy.model.device).stacked(2)


def chosen_rejected(group: Judged) -> tuple[Reply, Reply]:
    """The better and the worse reply of a pair.

    Raises:
        UserError: there are more or fewer than two, or they are tied.
    """
    if len(group.replies) != 2 or group.ratings[0] == group.ratings[1]:
        said = "a tie" if len(group.replies) == 2 else f"{len(group.replies)} replies"
        raise UserError(f"needs a pair with one better reply, got {said}.", where=group.where or f"pair '{group.id}'")
    first, second = group.replies
    return (first, second) if group.ratings[0] > group.ratings[1] else (second, first)


def prompts_twice(batch: Examples[Judged]) -> tuple[list[Conversation], list[Reply]]:
    """Prompts and replies of the rows of unstacked pairs: the first pair's chosen, its rejected, the second's chosen, ..."""
    return [g.prompt.text for g in batch.example for _ in range(2)], [r for g in batch.example for r in chosen_rejected(g)]


def pair_logps(model: Policy | Reference, sequences: Sequences) -> Tensor:
    """[B, 2] Log-probability of whole replies, nats; one pass, in which both replies share their prompt.

    Args:
        model: differentiable if it is a policy.
        sequences: every column [B, 2, ...].
    """
    flat = sequences.unstacked()
    return sequence_sum(model.logprobs(flat), flat.mask).unflatten(0, (-1, 2))


def pair_metrics(logp: Tensor, reward: Tensor) -> dict[str, Mean]:
    """TRL's metrics of pairs; a tie counts half in the accuracy, where TRL counts it wrong.

    Args:
        logp: [B, 2] nats.
        reward: [B, 2] implicit rewards.
    """
    chosen, rejected = reward.detach().unbind(1)
    return {
        "rewards/chosen": mean_of(chosen),
        "rewards/rejected": mean_of(rejected),
        "rewards/accuracies": mean_of((chosen > rejected).float() + 0.5 * (chosen == rejected).float()),
        "rewards/margins": mean_of(chosen - rejected),
        "logps/chosen": mean_of(logp[:, 0]),
        "logps/rejected": mean_of(logp[:, 1]),
    }
