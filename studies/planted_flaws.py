"""Does the RM card find flaws that were planted, at the size that costs a tenth of the gold gain, and stay quiet where none was?

Reward models are programs over the helpdesk world: gold, plus noise that is smooth in the words of prompt and reply, on the scale of the
labels' log-odds. Six flaws are planted at graded sizes. The cost of a size is what the optimum of a KL-regularised policy under the flawed
score loses of the gold objective's gain, on sampled replies. The sizes that cost 10 % are found on seeds 0 to 9, and the card's thresholds
were set on seeds 0 to 22 and 100 to 117; power and false alarms come from others. Every examination has its own world, labels, noise and
probes.

    python studies/planted_flaws.py --tune            # sizes, written beside the results
    python studies/planted_flaws.py --seeds 200:260 --jobs 2 --out runs/planted_flaws

Resumable: a seed that is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from trueup.core.rng import Key
from trueup.data.rows import Conversation, Judged, Prompt, Reply, judged
from trueup.evaluation.copies import ProbeSettings
from trueup.learn.table import Table
from trueup.mismatch.features import features
from trueup.mismatch.reward_model.card import examine
from trueup.pipeline.examine import score_models
from trueup.pipeline.probes import probe_models
from trueup.sandbox.desk import sources
from trueup.sandbox.helpdesk import Helpdesk, HelpdeskConfig
from trueup.stats.calibration import fit_temperature
from trueup.stats.tilting import kl_nats, tilt
from trueup.store.atomic import write_text

Array = NDArray[np.float64]
ROOT = Path(__file__).resolve().parents[1]
PAIRS, PROMPTS = 8120, 290
"""Judged pairs of an examination and their prompts; labels are noisy and without bias."""
REPLIES = 48
"""Replies a prompt that costs are measured on."""
BETA = 0.3
"""Of the KL-regularised objective, gold a nat."""
TEMPERATURE = 0.5
"""Of the annotators: a score difference of d log-odds claims a gold difference of d times this."""
NOISE = 0.6
"""Standard deviation of the sound score's noise, in deviations of gold."""
DESIGNATED = {
    "length": ("length", "imprint", "gaming"),
    "politeness": ("imprint", "gaming"),
    "prompt_blindness": ("prompt",),
    "miscalibration": ("certainty",),
    "broken_domain": ("accuracy",),
    "wrong_token": ("reading",),
}
"""Flaw -> the questions that should alarm."""
GRID = {
    "length": (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0),
    "politeness": (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0),
    "prompt_blindness": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "miscalibration": (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0),
    "broken_domain": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "wrong_token": (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0),
}
"""Sizes whose cost is measured: standard deviations of the score a deviation of the feature; share of the prompt's part that is lost;
logarithm of the factor; share of a domain's score that is noise; share of the replies that are read in their middle."""
DOMAIN = "sound"
"""Questions about the sounds of animals, about an eighth of the prompts."""
TIMES = (0.5, 1.0, 1.5)
"""Sizes of the power curve, as multiples of the one that costs 10 %."""
CURVE_SEEDS = 4
"""The first so many seeds are examined at all sizes, the others at the one that costs 10 %."""
PROBES = ProbeSettings(prompt_replies=2 * PROMPTS * 8)
"""All judged replies are scored under other prompts."""

Scorer = Callable[[Sequence[Prompt], Sequence[Reply]], Array]


@dataclass(frozen=True, kw_only=True)
class Values(Table):
    """Scores that were computed while encoding."""

    value: torch.Tensor


class Programmed:
    """A score function as a reward model."""

    tokenizer = None

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Values:
        """The scores themselves."""
        rows = [Prompt(id="", text=p) for p in prompts]
        return Values(value=torch.from_numpy(self.scorer(rows, list(replies))))

    def score(self, features: Values) -> torch.Tensor:
        """[B]"""
        return features.value


class Setting:
    """One world with its sound score, and the population that sizes are told in."""

    def __init__(self, seed: int) -> None:
        self.key = Key(seed) / "planted"
        config = HelpdeskConfig(
            bias_strength=0.0,
            train_prompts=60,
            train_pairs=60,
            replies_per_prompt=8,
            validation_prompts=PROMPTS,
            validation_pairs=PAIRS,
            test_prompts=60,
        )
        self.world = Helpdesk(config, Key(seed) / "world")
        rng = (self.key / "noise").generator()
        self.words, self.matches = rng.normal(size=4096), rng.normal(size=65536)
        self._known: dict[Any, float] = {}

    def noise(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        """Half from the words of the reply, half from words in their context; smooth in both texts."""
        out = []
        for p, r in zip(prompts, replies, strict=True):
            context = [zlib.crc32(w.encode()) for w in str(p.text).split()]
            words = [zlib.crc32(w.encode()) for w in dict.fromkeys(r.text.split())] or [0]
            alone = sum(self.words[w % 4096] for w in words) / np.sqrt(len(words))
            pairs = [self.matches[(w * 31 + c) % 65536] for w in words for c in context] or [0.0]
            out.append((alone + sum(pairs) / np.sqrt(len(pairs))) / np.sqrt(2))
        return np.array(out)

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        """[B] the truth."""
        return np.array([g.score for g in self.world.gold(prompts, replies)])

    @cached_property
    def population(self) -> tuple[list[Prompt], list[Reply]]:
        """Replies of the sources to the test prompts, prompt after prompt."""
        prompts, replies = [], []
        names = list(self.world.config.generators)
        share = np.array([self.world.config.generators[n] for n in names])
        for prompt in self.world.prompts("test"):
            key = self.key / "population" / prompt.id
            drawn = (key / "sources").generator().choice(len(names), size=REPLIES, p=share / share.sum())
            context = self.world._contexts[prompt.tags["context"]]
            prompts += [prompt] * REPLIES
            replies += [sources.write(names[int(s)], context, 24, key / i) for i, s in enumerate(drawn)]
        return prompts, replies

    @cached_property
    def golds(self) -> Array:
        """Gold of the population."""
        return self.gold(*self.population)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of gold."""
        return float(self.golds.std())

    @cached_property
    def slope(self) -> float:
        """What makes the noisy score's differences log-odds of labels; fitted to pairs that no examination sees."""
        prompts, replies = self.population
        key, rows = self.key / "calibration", []
        picks = key.generator().integers(0, REPLIES, size=(4000, 2))
        for i, (a, b) in enumerate(picks):
            at = (i % (len(prompts) // REPLIES)) * REPLIES
            rows.append((at + int(a), at + int(b)))
        raw = self.raw(prompts, replies)
        outcome = [self.world.label(prompts[a], replies[a], replies[b], key / i)[1] for i, (a, b) in enumerate(rows)]
        first, second = np.array(rows).T
        temperature = fit_temperature(raw[first] - raw[second], np.array(outcome))
        assert temperature is not None
        return 1 / temperature

    def raw(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        """Gold and noise; every text is read once."""
        rows = [(p.text, r.text, r.finished) for p, r in zip(prompts, replies, strict=True)]
        new = {row: (p, r) for row, p, r in zip(rows, prompts, replies, strict=True) if row not in self._known}
        if new:
            at, said = [p for p, _ in new.values()], [r for _, r in new.values()]
            found = self.gold(at, said) + NOISE * self.spread * self.noise(at, said)
            self._known.update(zip(new, found.tolist(), strict=True))
        return np.array([self._known[row] for row in rows])

    def sound(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        """Log-odds of labels, as well as this score can tell."""
        return self.slope * self.raw(prompts, replies)

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Deviations over the population: of the sound score, of words, of politeness."""
        prompts, replies = self.population
        counts = [features(r.text) for r in replies]
        return {
            "score": float(self.sound(prompts, replies).std()),
            **{n: float(np.std([c[n] for c in counts])) for n in ("words", "politeness")},
        }

    def flawed(self, flaw: str, size: float) -> Scorer:
        """The sound score with a flaw of that size."""
        return partial(getattr(self, f"_{flaw}"), size) if size else self.sound

    def _length(self, size: float, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        return self.sound(prompts, replies) + self._paid("words", size, replies)

    def _politeness(self, size: float, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        return self.sound(prompts, replies) + self._paid("politeness", size, replies)

    def _paid(self, feature: str, size: float, replies: Sequence[Reply]) -> Array:
        count = np.array([features(r.text)[feature] for r in replies])
        return np.asarray(size * self.sizes["score"] * count / self.sizes[feature])

    @cached_property
    def _others(self) -> list[Prompt]:
        prompts = list(self.world.prompts("train"))
        return [prompts[int(i)] for i in (self.key / "others").permutation(len(prompts))[:6]]

    def _prompt_blindness(self, size: float, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        elsewhere = np.mean([self.sound([p] * len(replies), replies) for p in self._others], axis=0)
        return np.asarray((1 - size) * self.sound(prompts, replies) + size * elsewhere)

    def _miscalibration(self, size: float, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        return np.asarray(np.exp(size) * self.sound(prompts, replies))

    def _broken_domain(self, size: float, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        score = self.sound(prompts, replies)
        inside = np.array([self.kind(p) == DOMAIN for p in prompts])
        # the noise of another key: what the score says there is as loud as before, and means less
        stray = Setting.noise(self._stray, prompts, replies) * self.sizes["score"]
        return np.where(inside, (1 - size) * score + size * stray, score)

    @cached_property
    def _stray(self) -> Any:
        rng = (self.key / "stray").generator()
        return type("Stray", (), {"words": rng.normal(size=4096), "matches": rng.normal(size=65536)})()

    def kind(self, prompt: Prompt) -> str:
        """Domain of a prompt: what kind of request it is, and of facts, about what."""
        context = self.world._by_text[str(prompt.text)]
        return context.relation if context.kind == "fact" else context.kind

    def _wrong_token(self, size: float, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Array:
        score = self.sound(prompts, replies)
        # which replies are read wrong follows from their beginning, as a rule about lengths or padding would
        wrong = np.array(
            [zlib.crc32(f"{p.text}/{r.text[:12]}".encode()) % 1000 < 1000 * size for p, r in zip(prompts, replies, strict=True)]
        )
        if wrong.any():
            halves = [replace(r, text=" ".join(r.text.split()[: max(1, len(r.text.split()) // 2)])) for r in replies]
            score[wrong] = self.sound(
                [p for p, w in zip(prompts, wrong, strict=True) if w], [h for h, w in zip(halves, wrong, strict=True) if w]
            )
        return score

    def gain(self, scorer: Scorer) -> float:
        """What the optimum of the KL-regularised objective under the score gains of gold - beta KL, on the population's replies."""
        prompts, replies = self.population
        score = scorer(prompts, replies).reshape(-1, REPLIES) * TEMPERATURE
        gold = self.golds.reshape(-1, REPLIES)
        return float(((tilt(score, BETA) - 1 / REPLIES) * gold).sum(1).mean() - BETA * kl_nats(score, BETA).mean())

    def groups(self) -> list[Judged]:
        """The judged pairs of an examination."""
        return [replace(judged(p), domain=self.kind(p.prompt)) for p in self.world.preferences("validation")]


def costs(seed: int) -> dict[str, list[float]]:
    """Share of the gain that each size of the grid costs."""
    setting = Setting(seed)
    whole = setting.gain(setting.sound)
    return {f: [1 - setting.gain(setting.flawed(f, s)) / whole for s in sizes] for f, sizes in GRID.items()}


def tuned(found: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """The size whose mean cost over seeds is 10 %, between two of the grid."""
    out = {}
    for flaw, sizes in GRID.items():
        mean = np.maximum.accumulate(np.mean([f[flaw] for f in found], axis=0))
        out[flaw] = float(np.interp(0.1, np.r_[0, mean], np.r_[0, sizes])) if mean[-1] >= 0.1 else float("nan")
    return out


def one(seed: int, out: Path, tenth: dict[str, float], curve: range) -> Path:
    """All examinations of a seed: the sound score and every flaw; all sizes where the seed is in ``curve``."""
    path = out / f"seed-{seed:04d}.json"
    if path.exists():
        return path
    torch.set_num_threads(1)
    setting = Setting(seed)
    groups, whole = setting.groups(), setting.gain(setting.sound)
    rows = []
    for flaw, times in [("sound", 0.0), *((f, t) for f in GRID for t in (TIMES if seed in curve else (1.0,)) if np.isfinite(tenth[f]))]:
        size = 0.0 if flaw == "sound" else times * tenth[flaw]
        if flaw != "sound" and flaw not in ("length", "politeness", "miscalibration"):
            size = min(size, 1.0)
        scorer = setting.flawed(flaw, size)
        model: Any = {"rm": Programmed(scorer)}
        key = setting.key / "card"
        scores = score_models(model, groups)
        found = examine(scores, key, probes=probe_models(model, groups, scores, key / "probes", PROBES))
        accuracy = found.estimates("rm")["accuracy"].value
        rows.append(
            {"flaw": flaw, "times": times, "size": size, "cost": 1 - setting.gain(scorer) / whole, "accuracy": accuracy,
             "verdicts": found.verdicts("rm"), "rules": {d.name: d.rule for d in found.diagnoses if d.verdict == "alarm"}}
        )  # fmt: skip
    write_text(path, json.dumps(rows, indent=1))
    return path


def rate(hits: Sequence[bool]) -> dict[str, float]:
    """Share with its two one-sided 95 % limits (Clopper and Pearson 1934)."""
    k, n = int(sum(hits)), len(hits)
    low = 0.0 if k == 0 else float(scipy_stats.beta.ppf(0.05, k, n - k + 1))
    high = 1.0 if k == n else float(scipy_stats.beta.ppf(0.95, k + 1, n - k))
    return {"share": k / n, "low": low, "high": high, "n": n}


def conclude(paths: Sequence[Path]) -> dict[str, Any]:
    """Power by flaw and size, and how often sound models alarm."""
    rows = [row for p in paths for row in json.loads(p.read_text())]
    table: dict[str, Any] = {"seeds": len(paths), "power": []}
    sound = [r for r in rows if r["flaw"] == "sound"]
    questions = list(sound[0]["verdicts"])
    table["sound"] = rate([any(v == "alarm" for v in r["verdicts"].values()) for r in sound])
    table["sound_by_question"] = {q: rate([r["verdicts"][q] == "alarm" for r in sound]) for q in questions}
    table["accuracy"] = float(np.mean([r["accuracy"] for r in sound]))
    for flaw in GRID:
        for times in TIMES:
            of = [r for r in rows if r["flaw"] == flaw and r["times"] == times]
            if of:
                table["power"].append(
                    {"flaw": flaw, "times": times, "size": of[0]["size"], "cost": float(np.mean([r["cost"] for r in of])),
                     "accuracy": float(np.mean([r["accuracy"] for r in of])),
                     "named": rate([any(r["verdicts"][q] == "alarm" for q in DESIGNATED[flaw]) for r in of]),
                     "any": rate([any(v == "alarm" for v in r["verdicts"].values()) for r in of])}
                )  # fmt: skip
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="find the sizes that cost 10 %% on seeds 0 to 9")
    parser.add_argument("--seeds", default="200:260", help="A:B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/planted_flaws"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = options.out / "sizes.json"
    with ProcessPoolExecutor(options.jobs) as pool:
        if options.tune or not sizes.exists():
            found = list(pool.map(costs, range(10)))
            mean = {f: np.mean([c[f] for c in found], axis=0).tolist() for f in GRID}
            write_text(sizes, json.dumps({"tenth": tuned(found), "grid": GRID, "cost": mean}, indent=1))
            print(json.dumps(json.loads(sizes.read_text()), indent=None))
            if options.tune:
                return
        tenth = json.loads(sizes.read_text())["tenth"]
        seeds = range(*map(int, options.seeds.split(":")))
        paths = list(pool.map(partial(one, out=options.out, tenth=tenth, curve=seeds[:CURVE_SEEDS]), seeds))
    table = conclude(paths)
    write_text(options.out / "planted_flaws.json", json.dumps(table, indent=1))
    print("sound, any alarm", table["sound"], {q: round(r["share"], 3) for q, r in table["sound_by_question"].items()})
    for row in table["power"]:
        told = f"{row['flaw']:17s} x{row['times']:<5g} size {row['size']:.3f} cost {row['cost']:.3f} accuracy {row['accuracy']:.3f}"
        named = row["named"]
        print(f"{told} named {named['share']:.2f} [{named['low']:.2f}, {named['high']:.2f}] any {row['any']['share']:.2f}")


if __name__ == "__main__":
    main()
