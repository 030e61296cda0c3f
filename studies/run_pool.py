"""A pool of helpdesk runs that differ in seed, label noise, annotator bias, model size, data, KL coefficient and optimizer.

The studies of the three links read their records and are judged on runs that no rule was tuned on (`TUNING`, `HELD_OUT`). Each seed gives
one SFT policy and two arms: ``plain`` optimises a reward model of several heads; ``phrase`` optimises the same with a price on one phrase
that is drawn at random from the demonstrations, an exploit nobody wrote a feature for.

    python studies/run_pool.py --seeds 500:510 --jobs 2 --out runs/pool
    python studies/run_pool.py --world stories --seeds 700:724 --jobs 2 --out runs/stories_pool

With ``--world stories`` a real pretrained model writes, a sentiment lexicon that nobody wrote for this is the truth, and the one arm
optimises a reward model of few or many noisy comparisons.

A seed that is done is not run again; a killed one resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import trueup
from trueup.core.rng import Key
from trueup.sandbox.helpdesk import HelpdeskConfig
from trueup.store.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"helpdesk": ROOT / "src" / "trueup" / "configs" / "quickstart.yaml", "stories": ROOT / "configs" / "stories.yaml"}
TUNING, HELD_OUT = range(500, 510), range(600, 640)
"""Seeds on which thresholds and rules were chosen, and those on which they are reported."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "noise_strength": (0.5, 1.0, 2.0),
    "bias_strength": (0.2, 0.4, 0.6),
    "train_pairs": (1000, 3000),
    "hidden_size": (48, 64, 96),
    "beta": (0.01, 0.03, 0.1),
    "optimizer": ("rloo", "ppo", "grpo", "reinforce"),
    "learning_rate": (1.5e-4, 2.5e-4),
}
STORIES: dict[str, tuple[Any, ...]] = {
    "pairs": (100, 300, 1200),
    "beta": (0.0, 0.02),
    "learning_rate": (1e-4, 3e-4),
    "optimizer": ("rloo", "grpo", "reinforce"),
}
PHRASE_SHARES = (0.004, 0.03)
"""How often the planted phrase stands in the demonstrations: seldom, but often enough to be found by chance."""
PHRASE_WEIGHT = 1.5
"""Its price; the reward model's scores have deviation 1 on replies of the SFT policy."""


def drawn(seed: int, world: str) -> dict[str, Any]:
    """What distinguishes the runs of a seed; every choice from a stream of its own."""
    key, offered = Key(seed) / "pool", CHOICES if world == "helpdesk" else STORIES
    found = {name: choices[int((key / name).generator().integers(len(choices)))] for name, choices in offered.items()}
    return {**found, "phrase": phrase(seed)} if world == "helpdesk" else found


def phrase(seed: int) -> str:
    """Two neighbouring words that some replies of the demonstrations hold."""
    replies = [d.reply.text.split() for d in HelpdeskConfig().build(seed, Path()).demonstrations()]
    counts = Counter(pair for words in replies for pair in {" ".join(words[i : i + 2]) for i in range(len(words) - 1)})
    few, many = (share * len(replies) for share in PHRASE_SHARES)
    known = sorted(p for p, n in counts.items() if few <= n <= many and p.replace(" ", "").isalpha())
    return known[int((Key(seed) / "pool" / "phrase").generator().integers(len(known)))]


def stories(seed: int) -> list[str]:
    """The run's configuration as changes of the stories'."""
    d = drawn(seed, "stories")
    return [
        f"seed={seed}",
        f"sampled_preferences.pairs={d['pairs']}",
        f"policy.optimizer={{kind: {d['optimizer']}, num_generations: 4, max_completion_length: 40, beta: {d['beta']}}}",
        f"policy.loop.learning_rate={d['learning_rate']}",
        "policy.steps=100",
        "threads=1",
        "probe={every: 10, prompts: 60, samples_per_prompt: 6, labels_per_prompt: 1, keep_policies: last}",
        "arms=[{name: static}]",
    ]


def settings(seed: int) -> list[str]:
    """The run's configuration as changes of the quick start's."""
    d = drawn(seed, "helpdesk")
    heads = "{kind: shared_trunk, members: 4}"
    said = f"{{kind: pattern, expression: '(^| ){d['phrase']}( |$)'}}"
    planted = f"{{kind: sum, parts: [{{reward: {heads}}}, {{weight: {PHRASE_WEIGHT}, reward: {said}}}]}}"
    optimizer = f"{{kind: {d['optimizer']}, num_generations: 4, max_completion_length: 32, beta: {d['beta']}}}"
    return [
        f"seed={seed}",
        f"world.noise_strength={d['noise_strength']}",
        f"world.bias_strength={d['bias_strength']}",
        f"world.train_pairs={d['train_pairs']}",
        f"policy_model.hidden_size={d['hidden_size']}",
        f"policy.optimizer={optimizer}",
        f"policy.loop.learning_rate={d['learning_rate']}",
        "probe.samples_per_prompt=20",
        "probe.keep_policies=last",
        f"arms=[{{name: plain, reward: {heads}}}, {{name: phrase, reward: {planted}}}]",
    ]


def run_seed(seed: int, world: str, out: Path) -> None:
    """The runs of a seed in a process of its own, on one thread."""
    if (out / f"seed-{seed:04d}" / "drawn.json").exists():
        return
    with (out / f"seed-{seed:04d}.log").open("a") as log:
        command = [sys.executable, __file__, "--one", str(seed), "--world", world, "--out", str(out)]
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="500:510", help="A:B, B not included")
    parser.add_argument("--world", choices=tuple(CONFIGS), default="helpdesk")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/pool"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        folder = options.out / f"seed-{options.one:04d}"
        overrides = settings(options.one) if options.world == "helpdesk" else stories(options.one)
        trueup.train(CONFIGS[options.world], folder, overrides=overrides, resume=True, report=False)
        write_text(folder / "drawn.json", json.dumps({"seed": options.one, **drawn(options.one, options.world)}, indent=1))
        return
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda s: run_seed(s, options.world, options.out), range(*map(int, options.seeds.split(":")))))


if __name__ == "__main__":
    main()
