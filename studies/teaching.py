"""Which of thirty reward models of nearly equal accuracy is the best teacher: what the card says before any policy is trained.

For every seed of the helpdesk world: candidates that differ in what they were trained on (number of pairs, noise and bias of the annotators,
epochs, head), thirty of them within three points of accuracy, and one policy run against each. The card sees replies of the SFT policy and
at most 500 noisy comparisons of them; it never sees gold.

    python studies/teaching.py --seeds 100:103 --jobs 2 --out runs/teaching

Resumable: what is done is not done again. Kendall's tau with gold after the policy run; intervals resample reward models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trueup.core.config import load_config
from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.models.reward import load_reward
from trueup.pipeline.config import RunConfig
from trueup.pipeline.refit import margins
from trueup.pipeline.run import execute
from trueup.sandbox.helpdesk import HelpdeskConfig
from trueup.store.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "src" / "trueup" / "configs" / "quickstart.yaml"
CANDIDATES, POOL, WINDOW = 48, 30, 0.03
HONEST_PAIRS = 1000
"""Held-out pairs that accuracy is measured on, labelled by annotators without bias but as noisy as ever."""


def settings_of(seed: int, member: int) -> list[str]:
    """What one candidate was trained on, drawn from the seed."""
    rng = (Key(seed) / "candidate" / member).generator()
    return [
        f"seed={seed}",
        f"world.bias_strength={rng.uniform(0, 1.2):.3f}",
        f"world.noise_strength={rng.uniform(0.3, 1.6):.3f}",
        f"world.train_pairs={int(rng.choice([300, 600, 1200, 2400]))}",
        f"reward.epochs={int(rng.choice([1, 2, 4]))}",
        "arms=[{name: static}]",
        "policy.steps=120",
        "probe.every=120",
        "probe.samples_per_prompt=24",
    ]


def train_candidate(seed: int, member: int, out: Path, stages: tuple[str, ...]) -> None:
    """SFT (shared) and reward model, or these and the policy, of one candidate."""
    folder = out / f"seed-{seed:04d}" / f"rm-{member:02d}"
    config = load_config(CONFIG, RunConfig, settings_of(seed, member))
    execute(config, folder, resume=True, base=ROOT, stages=stages)


def honest_pairs(seed: int) -> tuple[list[Preference], HelpdeskConfig]:
    """Held-out pairs of the sources' replies, labelled without bias."""
    config = HelpdeskConfig(bias_strength=0.0, validation_prompts=120, validation_pairs=HONEST_PAIRS)
    return list(config.build(seed, ROOT).preferences("validation")), config


def accuracies(seed: int, out: Path) -> dict[int, float]:
    """Held-out accuracy of every candidate, ties half."""
    pairs, _ = honest_pairs(seed)
    found = {}
    for member in range(CANDIDATES):
        gaps = np.array(margins(load_reward(out / f"seed-{seed:04d}" / f"rm-{member:02d}" / "checkpoints" / "reward"), pairs))
        found[member] = float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))
    return found


def chosen_pool(accuracy: dict[int, float]) -> list[int]:
    """Thirty candidates within a window of twice three points, the window with most of them; the first thirty by number."""
    middles = sorted(accuracy.values())
    best = max(middles, key=lambda m: (sum(abs(a - m) <= WINDOW for a in accuracy.values()), -m))
    return [m for m, a in sorted(accuracy.items()) if abs(a - best) <= WINDOW][:POOL]


def run_seed(seed: int, out: Path, jobs: int) -> None:
    """Everything of one seed; candidates and policies in processes of their own, on one thread each."""
    folder = out / f"seed-{seed:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    _each(seed, out, range(1), "reward", 1)  # the first one makes the SFT policy that all share
    _each(seed, out, range(1, CANDIDATES), "reward", jobs)
    if not (folder / "accuracy.json").exists():
        write_text(folder / "accuracy.json", json.dumps(accuracies(seed, out)))
    accuracy = {int(m): a for m, a in json.loads((folder / "accuracy.json").read_text()).items()}
    _each(seed, out, chosen_pool(accuracy), "policy", jobs)


def _each(seed: int, out: Path, members: Any, stage: str, jobs: int) -> None:
    def one(member: int) -> None:
        done = out / f"seed-{seed:04d}" / f"rm-{member:02d}" / f"{stage}.done"
        if not done.exists():
            command = [sys.executable, __file__, "--one", f"{seed}:{member}:{stage}", "--out", str(out)]
            environment = {"TRUEUP_CACHE": str(out / "cache"), **os.environ, "OMP_NUM_THREADS": "1"}
            with (out / f"seed-{seed:04d}.log").open("a") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
            done.touch()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, members))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100:103", help="A:B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/teaching"))
    parser.add_argument("--one", help="SEED:MEMBER:STAGE, in this process")
    options = parser.parse_args()
    if options.one:
        seed, member, stage = options.one.split(":")
        train_candidate(int(seed), int(member), options.out, ("sft", "reward", "policy")[: 3 if stage == "policy" else 2])
        return
    for seed in range(*map(int, options.seeds.split(":"))):
        run_seed(seed, options.out, options.jobs)


if __name__ == "__main__":
    main()
