"""Best-of-n on real preferences, where nobody wrote the truth for an alarm: gold is a reward model of all data, proxies know a part of it.

Each world draws a number of pairs of one of the files and fits a linear Bradley-Terry model of words to them (the proxy); gold is the same
kind of model fitted to all pairs of all files. Prompts on which replies are chosen are none of the proxy's. The reference of a prompt
draws from the replies to the prompts most like it; best-of-n takes the best of n of its draws by the proxy, and n = 1, 2, 4, ... is the
path that records call steps. What best-of-n earns in gold is also known exactly, from the ranks of all replies that may be drawn.

    python studies/best_of_n_hh.py --data helpful-base_test.jsonl.gz harmless-base_test.jsonl.gz --seeds 800:840 --out runs/best_of_n_hh

Each world leaves records as a run does (``seed-0800/records``), for `studies/alarms.py` and `trueup report`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trueup.core.record import OFFLINE_ARM, Label, SampleRecord
from trueup.core.rng import Key
from trueup.data.preferences import read_preferences
from trueup.data.rows import Preference
from trueup.store.atomic import write_text
from trueup.store.records import write_records

PAIRS = (60, 200, 600)
"""How many pairs a proxy is fitted to; one of these a world."""
PROMPTS, CANDIDATES, SAMPLES = 80, 64, 6
"""Prompts of a world, replies that the reference of a prompt may draw, and best-of-n replies a prompt."""
NS = (1, 2, 4, 8, 16, 32, 64)
GOLD_PENALTY, PROXY_PENALTY = 3.0, 30.0
"""Inverse strength of the quadratic penalty; the proxy's is weak, so that it believes its few pairs."""
HELD_OUT = 300
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """All pairs with their word vectors; rows 2i and 2i + 1 are the chosen and the rejected reply of pair i."""

    pairs: Sequence[Preference]
    replies: Sequence[str]
    vectors: sparse.csr_matrix
    prompts: sparse.csr_matrix
    gold: Array
    file: NDArray[np.int64]
    """Which file each pair stands in."""

    def difference(self, pairs: NDArray[np.int64]) -> sparse.csr_matrix:
        """[n, V] chosen minus rejected."""
        return self.vectors[2 * pairs] - self.vectors[2 * pairs + 1]


def read(paths: Sequence[Path]) -> Corpus:
    """The files' pairs, and gold fitted to all of them; gold has mean 0 and deviation 1 over the replies."""
    each = [read_preferences(path, on_bad="skip") for path in paths]
    pairs = [pair for found in each for pair in found]
    file = np.repeat(np.arange(len(each)), [len(found) for found in each])
    replies = [text for p in pairs for text in (p.chosen.text, p.rejected.text)]
    vectors = sparse.csr_matrix(TfidfVectorizer(ngram_range=(1, 2), min_df=5, sublinear_tf=True, norm=None).fit_transform(replies))
    prompts = sparse.csr_matrix(TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform([str(p.prompt.text) for p in pairs]))
    known = Corpus(pairs, replies, vectors, prompts, np.zeros(len(replies)), file)
    return replace(known, gold=fitted(known, np.arange(len(pairs)), GOLD_PENALTY / len(pairs)))


def fitted(corpus: Corpus, rows: NDArray[np.int64], penalty: float) -> Array:
    """[replies] Scores of a Bradley-Terry model of these pairs, standardised over all replies."""
    difference = corpus.difference(rows)
    both, wins = sparse.vstack([difference, -difference]), np.r_[np.ones(len(rows)), np.zeros(len(rows))]
    model = LogisticRegression(C=penalty, fit_intercept=False, max_iter=2000).fit(both, wins)
    scores = np.asarray(corpus.vectors @ model.coef_[0])
    return (scores - scores.mean()) / scores.std()


def world(corpus: Corpus, seed: int) -> tuple[list[SampleRecord], dict[str, Any]]:
    """Records of one world, and what its proxy knows: pairs of which file."""
    key = Key(seed) / "best_of_n_hh"
    order = (key / "order").permutation(len(corpus.pairs))
    size = PAIRS[int((key / "size").generator().integers(len(PAIRS)))]
    file = int((key / "file").generator().integers(corpus.file.max() + 1))
    own = order[corpus.file[order] == file]
    known, held = own[:size], own[size : size + HELD_OUT]
    order = np.setdiff1d(order, own[: size + HELD_OUT])[(key / "rest").permutation(len(order) - size - HELD_OUT)]
    asked = order[:PROMPTS]
    proxy = fitted(corpus, known, PROXY_PENALTY / size)
    rows = offline(corpus, held, proxy, seed)
    # the prompts that are asked, and those whose replies stand in, are none of the proxy's
    others = order[PROMPTS:]
    near = np.argsort(-(corpus.prompts[asked] @ corpus.prompts[others].T).toarray(), axis=1, kind="stable")[:, : CANDIDATES // 2]
    curves = np.zeros(len(NS))
    for p, pair in enumerate(asked):
        pool = np.concatenate([2 * others[near[p]], 2 * others[near[p]] + 1])
        curves += exact(proxy[pool], corpus.gold[pool]) / len(asked)
        rows += chosen(corpus, proxy, pool, int(pair), seed, key / "draws" / p)
    return rows, {"pairs": size, "file": file, "exact_gold": dict(zip(map(str, NS), curves.tolist(), strict=True))}


def exact(proxy: Array, gold: Array) -> Array:
    """[NS] Expected gold of the best of n by the proxy, of draws with replacement: the best has rank j with (j/K)^n - ((j-1)/K)^n."""
    ranks = np.arange(len(proxy) + 1)[:, None] / len(proxy)
    return np.diff(ranks ** np.array(NS), axis=0).T @ gold[np.argsort(proxy, kind="stable")]


def chosen(corpus: Corpus, proxy: Array, pool: NDArray[np.int64], pair: int, seed: int, key: Key) -> list[SampleRecord]:
    """Best-of-n replies to one prompt at every n."""
    out = []
    for n in NS:
        draws = pool[(key / n).generator().integers(len(pool), size=(SAMPLES, n))]
        best = draws[np.arange(SAMPLES), proxy[draws].argmax(axis=1)]
        for k, reply in enumerate(best):
            out.append(row(corpus, proxy, int(reply), seed, step=n, prompt=f"pair-{pair}", name=f"bon:{n}:{pair}:{k}", pair=pair))
    return out


def offline(corpus: Corpus, held: NDArray[np.int64], proxy: Array, seed: int) -> list[SampleRecord]:
    """Held-out pairs with the label that people gave."""
    out = []
    for pair in held.tolist():
        names = [f"offline:{pair}:{side}" for side in (0, 1)]
        for side, won in ((0, 1.0), (1, 0.0)):
            label = Label(annotator="people", other_sample_id=names[1 - side], preference=won)
            found = row(corpus, proxy, 2 * pair + side, seed, step=None, prompt=f"pair-{pair}", name=names[side], pair=pair)
            found.labels.append(label)
            out.append(found)
    return out


def row(corpus: Corpus, proxy: Array, reply: int, seed: int, *, step: int | None, prompt: str, name: str, pair: int) -> SampleRecord:
    """One reply as a record; the KL of best-of-n is log n - (n - 1) / n."""
    text = corpus.replies[reply]
    return SampleRecord(
        run=f"best-of-n-{seed}",
        arm=OFFLINE_ARM if step is None else "best_of_n",
        seed=seed,
        step=step,
        split="validation" if step is None else "test",
        prompt_id=prompt,
        sample_id=name,
        policy_id="people" if step is None else f"best-of-{step}",
        prompt=str(corpus.pairs[pair].prompt.text),
        response=text,
        n_tokens=len(text.split()),
        finished=True,
        kl_policy_ref_exact_nats=None if step is None else float(np.log(step) - (step - 1) / step),
        scores={"rm-0": float(proxy[reply])},
        proxy_fixed=float(proxy[reply]),
        proxy_current=float(proxy[reply]),
        gold=float(corpus.gold[reply]),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="preference pairs, such as hh-rlhf's helpful-base")
    parser.add_argument("--seeds", default="800:840", help="A:B, B not included")
    parser.add_argument("--out", type=Path, default=Path("runs/best_of_n_hh"))
    options = parser.parse_args()
    corpus = read(options.data)
    for seed in range(*map(int, options.seeds.split(":"))):
        folder = options.out / f"seed-{seed:04d}"
        if (folder / "drawn.json").exists():
            continue
        rows, known = world(corpus, seed)
        write_records(folder / "records" / "best_of_n.parquet", rows)
        write_text(folder / "drawn.json", json.dumps({"seed": seed, **known}))
        print(seed, json.dumps(known), flush=True)


if __name__ == "__main__":
    main()
