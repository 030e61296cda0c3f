"""Dense reward models learn through the same loop: replies with judged segments in, one output a category at every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.segments import Category, check_categories, segments_of, token_ends
from trueup.data.spans import Marked
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Loss, Table
from trueup.models.reward import TrunkReward
from trueup.models.token_outputs import needs_trunk, read_ends, token_outputs
from trueup.ops.masking import keep, mean_of, weighted_sum
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_ends


@dataclass(frozen=True, kw_only=True)
class MarkedBatch(Table):
    """Replies with marked spans to learn from."""

    row: Tensor
    """[B] position in the data set."""
    marked: tuple[Marked, ...]


@dataclass(frozen=True, kw_only=True)
class DenseExperience(Table):
    """Encoded replies and their segments."""

    sequences: Sequences
    segments: SegmentTargets


class DenseLearner(Stateless):
    """Fits a dense reward model to judged segments.

    Args:
        objective: the loss per segment.
        model: a causal trunk whose head has one output a category.
        categories: what is judged, in the order of the outputs.

    Raises:
        UserError: categories and outputs do not agree, or the model reads whole texts.
    """

    def __init__(self, objective: DenseObjectiveConfig, model: TrunkReward, categories: Sequence[Category]) -> None:
        self.objective, self.model, self.categories = objective, needs_trunk(model), tuple(categories)
        check_categories(self.categories, model.head_weight().shape[0])

    def modules(self) -> dict[str, nn.Module]:
        """Trunk and head."""
        return {"reward": self.model.module}

    def collect(self, batch: MarkedBatch, key: Key) -> DenseExperience:
        """Encode replies and find the tokens of their segments.

        Raises:
            UserError: a span's value is no degree between 0 and 1, and the objective classifies; the row is named.
        """
        rows = batch.marked
        sequences = self.model.encode([m.prompt.text for m in rows], [m.reply for m in rows])
        found = segment_targets(self.model, rows, self.categories, sequences, classifies=self.objective.classifies)
        return DenseExperience(sequences=sequences, segments=found)

    def totals(self, experience: DenseExperience) -> Tensor:
        """[C] elements of each category."""
        elements = self.objective.elements(experience.segments).double().cpu()
        category = experience.segments.category.cpu()
        return torch.zeros(len(self.categories), dtype=torch.float64).index_add(0, category.flatten(), elements.flatten())

    def weigh(self, experience: DenseExperience, totals: Tensor) -> Tensor:
        """[B, S] categories count the same, and so do the elements of one; 0 where absent."""
        used = max(int((totals > 0).sum()), 1)
        share = 1 / (used * totals.clamp(min=1))
        segments = experience.segments
        return keep(share.to(segments.category.device)[segments.category].float(), segments.present)

    def loss(self, experience: DenseExperience, weight: Tensor) -> Loss:
        """Weighted sum over segments; accuracies of each category at segment ends where the objective classifies."""
        output, segments = token_outputs(self.model, experience.sequences), experience.segments
        weight = weight.to(output.device)
        value = weighted_sum(keep(self.objective.loss(output, segments), weight > 0), weight)
        return Loss(value, self._metrics(output, segments))

    @torch.no_grad()
    def _metrics(self, output: Tensor, segments: SegmentTargets) -> dict[str, Any]:
        said, target, present = at_ends(output, segments), segments.target.to(output), segments.present.to(output.device)
        category, found = segments.category.to(output.device), {}
        for c, one in enumerate(self.categories):
            here = present & (category == c)
            found[f"{one.name}/output"] = mean_of(said, here)
            found[f"{one.name}/target"] = mean_of(target, here)
            if self.objective.classifies:
                found[f"{one.name}/accuracy"] = mean_of(((said > 0) == (target > 0.5)).float(), here)
        return found


def segment_targets(
    model: TrunkReward, rows: Sequence[Marked], categories: Sequence[Category], sequences: Sequences, *, classifies: bool = True
) -> SegmentTargets:
    """The judged segments of replies, in tokens of the model.

    Args:
        model: whose tokens count.
        rows: replies with marked spans.
        categories: what is judged.
        sequences: the rows, encoded by the model; segments of which it cut off all tokens are absent.
        classifies: targets must lie between 0 and 1.

    Raises:
        UserError: a target does not; the row is named.
    """
    texts = read_ends(model, [m.reply for m in rows])
    lengths = sequences.mask.sum(1).tolist()
    columns: list[list[tuple[int, int, int, float]]] = []
    for row, tokens, length in zip(rows, texts, lengths, strict=True):
        cut = len(tokens) - length
        found: list[tuple[int, int, int, float]] = []
        for c, category in enumerate(categories):
            segments = segments_of(row, category) if tokens else []
            ends = [t - cut for t in token_ends([s.end for s in segments], tokens, len(row.reply.text.rstrip()))]
            for first, last, target in zip([0, *(e + 1 for e in ends[:-1])], ends, (s.target for s in segments), strict=False):
                if target is not None and classifies and not 0 <= target <= 1:
                    raise UserError(
                        f"a span of category '{category.name}' has the value {target:g}, and this objective needs degrees between 0 and 1. "
                        "Rescale the values, or use the objective 'values'.",
                        where=row.where,
                    )
                if target is not None and last >= 0:
                    found.append((max(first, 0), last, c, target))
        columns.append(found)
    return _padded(columns)


def _padded(rows: Sequence[Sequence[tuple[int, int, int, float]]]) -> SegmentTargets:
    size = max([1, *map(len, rows)])
    first, last, category, target, present = (
        torch.zeros((len(rows), size), dtype=kind) for kind in (torch.int64, torch.int64, torch.int64, torch.float32, torch.bool)
    )
    for i, row in enumerate(rows):
        for j, (a, b, c, value) in enumerate(row):
            first[i, j], last[i, j], category[i, j], target[i, j], present[i, j] = a, b, c, value, True
    return SegmentTargets(first=first, last=last, category=category, target=target, present=present)
