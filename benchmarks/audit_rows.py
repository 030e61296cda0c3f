"""Seconds and memory of `trueup audit --records` on a million rows.

Rows: 10 checkpoints x 5,000 prompts x 20 replies of 8 to 23 words, with reward, gold, log-probabilities of policy and reference,
lengths, two evaluations and another score; 5,000 labelled offline pairs with rewards. The reward pays for length and for a phrase that
spreads, so that diagnoses have something to find. The audit is a process of its own; its peak is the resident memory that the system
reports.

    python benchmarks/audit_rows.py [--format parquet|csv|jsonl] [--prompts 5000] [--checkpoints 10] [--replies 20] [--json FILE]

The last line is ``seconds X.X of 60, peak Y.YY of 4 GiB``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

GIB = 2**30
CODE = "from trueup.cli.main import main; main()"
WORDS = np.array([a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "ra", "lo", "ti", "st", "x")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("parquet", "csv", "jsonl"), default="parquet")
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--replies", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where files go; a temporary folder if left out")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows, labels = folder / f"rows.{args.format}", folder / "labels.parquet"
        generator = np.random.default_rng(0)
        count = written(samples(generator, args.prompts, args.checkpoints, args.replies), rows)
        written(pairs(generator, args.prompts), labels)
        found = {"rows": count, "bytes": rows.stat().st_size, **audited(rows, labels, folder / "audit")}
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"seconds {found['seconds']:.1f} of 60, peak {found['peak_gib']:.2f} of 4 GiB")


def samples(generator: np.random.Generator, prompts: int, checkpoints: int, replies: int) -> pd.DataFrame:
    """One row a reply."""
    step, prompt, _ = (a.ravel() for a in np.meshgrid(np.arange(checkpoints), np.arange(prompts), np.arange(replies), indexing="ij"))
    n, progress = len(step), step / max(checkpoints - 1, 1)
    length = generator.integers(8, 18, n) + (6 * progress * generator.random(n)).astype(int)
    phrase = generator.random(n) < 0.02 + 0.4 * progress
    quality = generator.normal(size=n) + 0.8 * progress + generator.normal(size=prompts)[prompt]
    gold = quality - 0.06 * (length - 12) - 0.9 * phrase
    reward = 0.7 * quality + 0.08 * (length - 12) + 0.8 * phrase + 0.7 * generator.normal(size=n)
    logp_ref = -2.2 * length + generator.normal(size=n)
    return pd.DataFrame(
        {
            "step": step * 50,
            "prompt": np.array([f"prompt {i}: {' '.join(generator.choice(WORDS, 12))}" for i in range(prompts)], dtype=object)[prompt],
            "response": texts(generator, length, phrase),
            "reward": reward,
            "gold": gold,
            "logp_ref": logp_ref,
            "logp_policy": logp_ref + 6 * progress + 0.5 * generator.normal(size=n),
            "n_tokens": length + 1,
            "finished": generator.random(n) < 0.98,
            "score.other": reward + 0.5 * generator.normal(size=n),
            "eval.correct": (quality + generator.normal(size=n) > 0).astype(float),
            "eval.flattery": phrase.astype(float),
        }
    )


def pairs(generator: np.random.Generator, prompts: int) -> pd.DataFrame:
    """Offline pairs with labels and rewards."""
    gold = generator.normal(size=(prompts, 2))
    reward = 0.7 * gold + 0.7 * generator.normal(size=(prompts, 2))
    won = generator.random(prompts) < 1 / (1 + np.exp(gold[:, 1] - gold[:, 0]))
    length, none = generator.integers(8, 18, prompts), np.zeros(prompts, dtype=bool)
    return pd.DataFrame(
        {
            "prompt": [f"offline {i}" for i in range(prompts)],
            "response_a": texts(generator, length, none),
            "response_b": texts(generator, length, none),
            "score_a": reward[:, 0],
            "score_b": reward[:, 1],
            "gold_a": gold[:, 0],
            "gold_b": gold[:, 1],
            "preference": won.astype(float),
        }
    )


def texts(generator: np.random.Generator, length: Any, phrase: Any) -> list[str]:
    """Replies of so many words, some with the phrase."""
    words = WORDS[np.minimum(generator.zipf(1.3, size=(len(length), int(length.max()))), len(WORDS)) - 1].tolist()
    return [
        " ".join(row[:n]) + (" as you wisely ask." if p else ".") for row, n, p in zip(words, length.tolist(), phrase.tolist(), strict=True)
    ]


def written(table: pd.DataFrame, path: Path) -> int:
    """Write a table in the format of the name; its rows."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path, index=False)
    return len(table)


def audited(rows: Path, labels: Path, out: Path) -> dict[str, Any]:
    """Audit in a process of its own: seconds, peak memory, and what it found."""
    command = [sys.executable, "-c", CODE, "audit", "--records", str(rows), "--labels", str(labels), "--out", str(out), "--json"]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")})
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"the audit failed: {said.decode()}")
    verdicts = {v["name"]: v["verdict"] for v in json.loads(said)["verdicts"]}
    processor = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "processor_seconds": processor, "peak_gib": usage.ru_maxrss * 1024 / GIB, "verdicts": verdicts}


if __name__ == "__main__":
    main()
