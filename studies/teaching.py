"""Which of thirty reward models of nearly equal accuracy is the best teacher: what the card says before any policy is trained.

For every seed of the helpdesk world: candidates that differ in who labelled what they were trained on (one annotator each, with likings of
its own for length, flattery, politeness, caution and refusal) and in the number of pairs, thirty of them within three points of
accuracy, and one policy run against each. The card sees replies of the SFT
policy and at most 500 noisy comparisons of them; it never sees gold.

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
from numpy.typing import NDArray
from scipy.stats import kendalltau

from trueup.core.config import load_config
from trueup.core.record import Decoding
from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.mismatch.features import features
from trueup.mismatch.reward_model.gains import Compared, choose_comparisons, predicted_gains
from trueup.mismatch.reward_model.learnable import learnable, word_counts
from trueup.models.policy import load_policy
from trueup.models.reward import load_reward
from trueup.optimizers.protocol import OnlineConfig
from trueup.pipeline.config import RunConfig
from trueup.pipeline.refit import margins
from trueup.pipeline.run import execute
from trueup.pipeline.sampling import replies_of, write
from trueup.rewards.learned import LearnedReward
from trueup.sandbox.helpdesk import HelpdeskConfig
from trueup.stats.tilting import standardised, tilt, within_variance
from trueup.store.atomic import write_text
from trueup.store.records import frame

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "src" / "trueup" / "configs" / "quickstart.yaml"
CANDIDATES, POOL, WINDOW = 48, 30, 0.03
REFERENCE_PROMPTS, REFERENCE_REPLIES, COMPARISONS = 120, 32, 500
BETA = 0.2
"""KL coefficient of the policy runs: with a tenth of it every run is over-optimised, and its length decides."""
BETAS = (0.1, BETA, 0.5)
"""Tilts at which gains are predicted, standard deviations of the score a nat. What the card says is ``combined@0.5``, its default."""
LIKINGS = ("length", "flattery", "politeness", "caution", "refusal")
"""Of a candidate's annotator, in units of gold; each is 0 in half of them."""
HONEST_PAIRS = 1000
"""Held-out pairs that accuracy is measured on, labelled by annotators without bias but as noisy as ever."""


def settings_of(seed: int, member: int) -> list[str]:
    """What one candidate was trained on, drawn from the seed."""
    rng = (Key(seed) / "candidate" / member).generator()
    likings = [f"{name}: {rng.uniform(-0.5, 1.5) * (rng.random() < 0.5):.3f}" for name in LIKINGS]
    return [
        f"seed={seed}",
        "world.bias_strength=1.0",
        f"world.annotators=[{{name: own, {', '.join(likings)}}}]",
        f"world.train_pairs={int(rng.choice([800, 1200, 1600]))}",
        "arms=[{name: static}]",
        "policy.steps=120",
        f"policy.optimizer.beta={BETA}",
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
    """Everything of one seed; candidates and policies in processes of one thread each."""
    folder = out / f"seed-{seed:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    _share_out(seed, out, [0], "reward", 1)  # the first one makes the SFT policy that all share
    _share_out(seed, out, list(range(1, CANDIDATES)), "reward", jobs)
    if not (folder / "accuracy.json").exists():
        write_text(folder / "accuracy.json", json.dumps(accuracies(seed, out)))
    accuracy = {int(m): a for m, a in json.loads((folder / "accuracy.json").read_text()).items()}
    _share_out(seed, out, chosen_pool(accuracy), "policy", jobs)


def _share_out(seed: int, out: Path, members: list[int], stage: str, jobs: int) -> None:
    """Members in as many processes as jobs; a process takes every jobs-th, since its start costs as much as a reward model."""
    left = [m for m in members if not (out / f"seed-{seed:04d}" / f"rm-{m:02d}" / f"{stage}.done").exists()]

    def work(part: list[int]) -> None:
        command = [sys.executable, __file__, "--one", f"{seed}:{stage}:{','.join(map(str, part))}", "--out", str(out)]
        environment = {"TRUEUP_CACHE": str(out / "cache"), **os.environ, "OMP_NUM_THREADS": "1"}
        with (out / f"seed-{seed:04d}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, [left[k::jobs] for k in range(jobs) if left[k::jobs]]))


def predictions(seed: int, out: Path, members: list[int]) -> dict[str, list[float]]:
    """What the card says of each member: from reference replies and noisy comparisons; and, as the bound, from gold."""
    folder = out / f"seed-{seed:04d}"
    config = load_config(folder / f"rm-{members[0]:02d}" / "config.yaml", RunConfig)
    assert config.policy is not None
    assert isinstance(config.policy.optimizer, OnlineConfig)
    world = HelpdeskConfig(bias_strength=0.0).build(seed, ROOT)
    key = Key(seed) / "teaching"
    prompts = [world.prompts("train")[int(i)] for i in (key / "prompts").permutation(240)[:REFERENCE_PROMPTS]]
    decoding = Decoding(temperature=1.0, top_p=1.0, max_tokens=config.policy.optimizer.max_completion_length)
    policy = load_policy(folder / f"rm-{members[0]:02d}" / "checkpoints" / "sft")
    written = write(policy, prompts, decoding, key / "samples", samples=REFERENCE_REPLIES)
    rows, replies = replies_of(written)
    place = {p.id: i for i, p in enumerate(prompts)}
    order = np.argsort([place[p.id] for p in rows], kind="stable")
    rows, replies = [rows[int(i)] for i in order], [replies[int(i)] for i in order]
    shape = (len(prompts), REFERENCE_REPLIES)
    models = [LearnedReward(load_reward(folder / f"rm-{m:02d}" / "checkpoints" / "reward")) for m in members]
    whole = standardised(np.stack([m.raw([p.text for p in rows], replies).double().numpy().reshape(shape) for m in models]))
    score = learnable(whole, word_counts([r.text for r in replies]).reshape(*shape, -1))
    chosen = choose_comparisons(score, COMPARISONS, key / "choice", betas=BETAS)
    at = [(int(p), int(a), int(b)) for p, a, b in zip(chosen.prompt, chosen.first, chosen.second, strict=True)]
    text = np.array(replies, dtype=object).reshape(shape)
    won = [world.label(prompts[p], text[p, a], text[p, b], key / "label" / i)[1] for i, (p, a, b) in enumerate(at)]
    compared = Compared(**vars(chosen), outcome=np.array(won))
    named = np.array([list(features(r.text).values()) for r in replies]).T.reshape(-1, *shape)
    gold = np.array([g.score for g in world.gold(rows, replies)]).reshape(shape)
    found: dict[str, list[float]] = {"variance": within_variance(whole).mean(1).tolist()}
    order_of = np.array([[np.sign(m[p, a] - m[p, b]) for p, a, b in at] for m in whole])
    found["accuracy_on_comparisons"] = (0.5 + 0.5 * order_of * (2 * np.array(won) - 1)).mean(1).tolist()
    for beta in BETAS:
        weight = tilt(score, beta)
        gains = predicted_gains(weight, score, named, compared, key / "gains", draws=20)
        found |= {f"{method}@{beta:g}": gains.value[method].tolist() for method in gains.value}
        found[f"gold@{beta:g}"] = (weight * gold).sum(2).mean(1).tolist()
        found[f"gold_whole@{beta:g}"] = (tilt(whole, beta) * gold).sum(2).mean(1).tolist()
    return found


def collected(seed: int, out: Path) -> dict[str, Any]:
    """Predictions, accuracy, and gold after the policy run, of every member of a seed's pool."""
    folder = out / f"seed-{seed:04d}"
    path = folder / "pool.json"
    if not path.exists():
        accuracy = {int(m): a for m, a in json.loads((folder / "accuracy.json").read_text()).items()}
        members = chosen_pool(accuracy)
        runs = [frame(folder / f"rm-{m:02d}" / "records") for m in members]
        last = [r[(r["arm"] == "static") & (r["step"] == r["step"].max())] for r in (r[r["arm"] != "offline"] for r in runs)]
        table = {
            "seed": seed,
            "members": members,
            "accuracy": [accuracy[m] for m in members],
            "gold": [float(r["gold"].mean()) for r in last],
            "kl_nats": [float(r["kl_policy_ref_exact_nats"].mean()) for r in last],
            "predictions": predictions(seed, out, members),
        }
        write_text(path, json.dumps(table, indent=1))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def conclude(pools: list[dict[str, Any]]) -> dict[str, Any]:
    """Kendall's tau with gold, of accuracy and of every prediction, and its difference from accuracy's; pools resample reward models."""
    names = ["accuracy", *pools[0]["predictions"]]
    value, draws = {n: [] for n in names}, {n: [] for n in names}  # type: ignore[var-annotated]
    for pool in pools:
        gold, n = np.array(pool["gold"]), len(pool["gold"])
        picks = (Key(0) / "pools" / pool["seed"]).generator().integers(0, n, size=(2000, n))
        for name in names:
            x = np.array(pool["accuracy"] if name == "accuracy" else pool["predictions"][name])
            value[name].append(_tau(x, gold))
            draws[name].append([_tau(x[p], gold[p]) for p in picks])
    table: dict[str, Any] = {"seeds": [p["seed"] for p in pools], "n": [len(p["gold"]) for p in pools], "tau": {}}
    table["accuracy_range"] = [[min(p["accuracy"]), max(p["accuracy"])] for p in pools]
    table["gold_range"] = [[min(p["gold"]), max(p["gold"])] for p in pools]
    base = np.mean(draws["accuracy"], axis=0)
    for name in names:
        mean, sample = float(np.mean(value[name])), np.mean(draws[name], axis=0)
        gap = sample - base
        table["tau"][name] = {
            "value": mean, "each": value[name], "low": float(np.quantile(sample, 0.025)), "high": float(np.quantile(sample, 0.975)),
            "minus_accuracy": mean - float(np.mean(value["accuracy"])),
            "minus_low": float(np.quantile(gap, 0.025)), "minus_high": float(np.quantile(gap, 0.975)),
        }  # fmt: skip
    return table


def _tau(x: NDArray[np.float64], gold: NDArray[np.float64]) -> float:
    return float(kendalltau(x, gold).statistic)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100:103", help="A:B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/teaching"))
    parser.add_argument("--one", help="SEED:STAGE:MEMBERS, in this process")
    options = parser.parse_args()
    if options.one:
        seed, stage, members = options.one.split(":")
        for member in map(int, members.split(",")):
            train_candidate(int(seed), member, options.out, ("sft", "reward", "policy")[: 3 if stage == "policy" else 2])
            (options.out / f"seed-{int(seed):04d}" / f"rm-{member:02d}" / f"{stage}.done").touch()
        return
    for seed in range(*map(int, options.seeds.split(":"))):
        run_seed(seed, options.out, options.jobs)
    table = conclude([collected(seed, options.out) for seed in range(*map(int, options.seeds.split(":")))])
    write_text(options.out / "teaching.json", json.dumps(table, indent=1))
    for name, row in table["tau"].items():
        gap = f"minus accuracy {row['minus_accuracy']:+.3f} [{row['minus_low']:+.3f}, {row['minus_high']:+.3f}]"
        print(f"{name:24s} tau {row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] {gap}")


if __name__ == "__main__":
    main()
