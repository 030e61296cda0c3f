"""Which checkpoint to keep: two hundred noisy comparisons against rules that read the proxy, the KL or the disagreement of an ensemble.

Runs are those of the helpdesk pool (`run_pool.py`, both arms) and of tables (`tabular_runs.py`). Every rule sees four replies a prompt
and checkpoint, never gold; the judge has the gold of the other sixteen (pool), or the exact one (tables). A label is one comparison by an
annotator of the run's own world. Settings were chosen on the tuning seeds alone; intervals resample seeds (the two arms of a pool seed
together). Runs in which no checkpoint gains, or gains less than five standard errors, are excluded and counted.

    python studies/keep_rule.py --pool runs/pool --out runs/keep            held-out seeds, as chosen
    python studies/keep_rule.py --pool runs/pool --out runs/keep --tune 40  a random search over the prior on tuning seeds
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from run_pool import HELD_OUT, TUNING
from tabular_runs import tabular_run

from trueup.core.config import load_config
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.mismatch.keep_rule import Ask, KeepRule, keep
from trueup.mismatch.utility import UtilityPrior
from trueup.pipeline.config import RunConfig
from trueup.stats.bootstrap import cluster_weights, interval
from trueup.store.atomic import write_text
from trueup.store.records import frame

Array = NDArray[np.float64]
TABLES_TUNING, TABLES_HELD_OUT = range(1000, 1040), range(2000, 2100)
SEEN = 4
"""Replies a prompt and checkpoint that rules may look at."""
STRATA = ("noise_strength", "beta", "optimizer", "hidden_size", "train_pairs", "arm", "noise", "bias", "strength", "path", "blur", "mark")
ENOUGH = 0.95
PRIORS = {
    "helpdesk": UtilityPrior(rise=0.73, rise_sd=0.26, fall=0.44, fall_sd=0.21, correlation=0.98, rest_sd=0.06),
    "tables": UtilityPrior(rise=0.89, rise_sd=0.3, fall=0.44, fall_sd=0.21, correlation=0.74, rest_sd=0.05),
}
"""What the tuning runs of each world say, as they set the simple rules: the law was fitted by least squares, run by run, to the log-odds of
the mean chance that a reply of a checkpoint beats one of the first; means, deviations and correlation are over runs."""


@dataclass(frozen=True)
class Case:
    """One run to choose a checkpoint of."""

    name: str
    world: str
    seed: int
    records: pd.DataFrame
    arm: str
    gold: Array
    """[S] as judged."""
    error: float
    """Standard error of the best checkpoint's gain, given the prompts; 0 where gold is exact."""
    ask: Callable[[Key], Ask]
    strata: Mapping[str, Any]

    def share(self, position: int) -> float:
        """Gain of a checkpoint as a share of the best one's."""
        gain = self.gold - self.gold[0]
        return float(gain[position] / gain.max())

    def usable(self) -> bool:
        """Whether the gain is at least five standard errors, and there is one."""
        gain = float((self.gold - self.gold[0]).max())
        return gain > max(5 * self.error, 1e-2)


def pool_cases(pool: Path, seeds: Sequence[int]) -> Iterator[Case]:
    """Both arms of every finished seed."""
    for seed in seeds:
        folder = pool / f"seed-{seed:04d}"
        if not (folder / "drawn.json").exists():
            continue
        config = load_config(folder / "config.yaml", RunConfig)
        world = config.world.build(config.seed, folder) if config.world else None
        assert world is not None
        drawn, table = json.loads((folder / "drawn.json").read_text()), frame(folder)
        prompts = {p.id: p for p in world.prompts("test")}
        table = table[table["split"] == "test"]
        for arm in ("plain", "phrase"):
            rows = table[table["arm"] == arm].sort_values(["step", "prompt_id", "sample_id"])
            number = rows.groupby(["step", "prompt_id"]).cumcount()
            judged, shown = rows[number >= SEEN], rows[number < SEEN].reset_index(drop=True)
            gold, error = _judged(judged)
            replies = {s: (p, Reply(text=t, finished=bool(f))) for s, p, t, f in zip(
                shown["sample_id"], shown["prompt_id"], shown["response"], shown["finished"], strict=True)}  # fmt: skip

            def asks(key: Key, world: Any = world, prompts: Any = prompts, replies: Any = replies) -> Ask:
                def ask(first: str, second: str) -> float | None:
                    prompt, a = replies[first]
                    return world.label(prompts[prompt], a, replies[second][1], key / first / second)[1]

                return ask

            hidden = [c for c in shown if c == "gold" or c.startswith(("gold_components", "evaluations"))]
            yield Case(f"{seed}-{arm}", "helpdesk", seed, shown.drop(columns=hidden), arm, gold, error, asks, {**drawn, "arm": arm})


def _judged(rows: pd.DataFrame) -> tuple[Array, float]:
    """Mean gold of each checkpoint, and the standard error of the best gain over replies, the prompts being what they are."""
    cells = rows.groupby(["step", "prompt_id"])["gold"].agg(["mean", "var", "size"])
    by_step = cells["mean"].groupby("step").mean().to_numpy()
    variance = (cells["var"] / cells["size"]).groupby("step").sum().to_numpy() / cells.groupby("step").size().to_numpy() ** 2
    best = int(by_step.argmax())
    return by_step, float(np.sqrt(variance[best] + variance[0]))


def table_cases(seeds: Sequence[int]) -> Iterator[Case]:
    """Runs in tables."""
    for seed in seeds:
        run = tabular_run(seed)
        yield Case(f"table-{seed}", "tables", seed, run.records.drop(columns="gold"), "run", run.gold, 0.0, run.ask, run.drawn)


# Rules: case -> position of the kept checkpoint


def means(case: Case, column: str) -> Array:
    """[S] of what rules see."""
    return case.records.groupby("step")[column].mean().to_numpy()


def last(case: Case) -> int:
    return len(case.gold) - 1


def highest_proxy(case: Case) -> int:
    return int(means(case, "proxy_current").argmax())


def fixed_kl(case: Case, nats: float) -> int:
    return int(np.abs(np.sqrt(np.maximum(means(case, "kl_policy_ref_exact_nats"), 0)) - np.sqrt(nats)).argmin())


def disagreement(case: Case, price: float) -> int:
    """Highest proxy less a price on what the ensemble disagrees more than at the start."""
    spread = means(case, "disagreement")
    return int((means(case, "proxy_current") - price * (spread / spread[0] - 1)).argmax())


GRIDS: dict[str, tuple[Callable[[Case, float], int], Array]] = {
    "fixed KL": (fixed_kl, np.geomspace(0.05, 30, 60)),
    "ensemble disagreement": (disagreement, np.r_[0.0, np.geomspace(0.05, 50, 60)]),
}


def tuned(cases: Sequence[Case]) -> dict[str, float]:
    """The best setting of each simple rule on tuning runs, by the mean share of the gain."""
    return {
        name: float(grid[int(np.argmax([np.mean([c.share(rule(c, float(x))) for c in cases]) for x in grid]))])
        for name, (rule, grid) in GRIDS.items()
    }


def labelled(case: Case, settings: KeepRule, repeat: int = 0) -> int:
    """Our rule; without a budget it asks nobody."""
    key = Key(case.seed) / "keep" / case.name / repeat
    found = keep(case.records, case.arm, settings, key, case.ask(key / "annotators") if settings.budget else None)
    assert found is not None
    return found.position


def outcome(cases: Sequence[Case], chosen: dict[str, float], settings: KeepRule) -> dict[str, Array]:
    """Rule -> [C] gold of the kept checkpoint less that of the first."""
    rules: dict[str, Callable[[Case], int]] = {
        "last": last,
        "highest proxy": highest_proxy,
        **{name: (lambda c, r=rule, n=name: r(c, chosen[n])) for name, (rule, _) in GRIDS.items()},
        **{f"{n} labels": (lambda c, n=n: labelled(c, settings.model_copy(update={"budget": n}))) for n in (0, 50, 200)},
        "200 labels, default prior": lambda c: labelled(c, KeepRule()),
        "best": lambda c: int(c.gold.argmax()),
    }
    return {name: np.array([c.gold[rule(c)] - c.gold[0] for c in cases]) for name, rule in rules.items()}


def report(cases: Sequence[Case], gains: dict[str, Array], key: Key) -> dict[str, Any]:
    """Means, shares and paired differences with 95 % intervals over seeds."""
    seeds = np.unique([c.seed for c in cases], return_inverse=True)[1]
    weights = cluster_weights(int(seeds.max()) + 1, 2000, key)[:, seeds]
    best = gains["best"]

    def mean(values: Array) -> list[float]:
        draws = (weights * values).sum(1) / weights.sum(1)
        low, high = interval(draws, int(seeds.max()) + 1)
        return [round(float(v), 4) for v in (values.mean(), low, high)]

    ours = "200 labels"
    simple = ["last", "highest proxy", *GRIDS]
    return {
        "runs": len(cases),
        "seeds": int(seeds.max()) + 1,
        "lose_a_fifth": float(np.mean(gains["last"] < 0.8 * best)),
        "error_of_gain_median": float(np.median([c.error / b for c, b in zip(cases, best, strict=True)])),
        "gain": {name: mean(g) for name, g in gains.items()},
        "share": {name: mean(np.maximum(g / best, -1)) for name, g in gains.items()},
        "keeps_95": {name: mean((g >= ENOUGH * best).astype(float)) for name, g in gains.items()},
        "ours_minus": {name: mean(gains[ours] - gains[name]) for name in (*simple, "0 labels")},
        "default_prior_minus": {name: mean(gains["200 labels, default prior"] - gains[name]) for name in simple},
        "without_labels_minus": {name: mean(gains["0 labels"] - gains[name]) for name in simple},
    }


def strata(cases: Sequence[Case], gains: dict[str, Array]) -> list[dict[str, Any]]:
    """Shares of the best gain in each stratum."""
    out = []
    for world in sorted({c.world for c in cases}):
        for name in STRATA:
            for value in sorted({c.strata[name] for c in cases if c.world == world and name in c.strata}, key=str):
                here = np.array([c.world == world and c.strata.get(name) == value for c in cases])
                shares = {k: round(float(np.maximum(g[here] / gains["best"][here], -1).mean()), 3) for k, g in gains.items()}
                out.append({"world": world, "stratum": name, "value": value, "runs": int(here.sum()), **shares})
    return out


def search(cases: Sequence[Case], tries: int, out: Path) -> None:
    """Random search over the prior: the mean share of the gain, two sets of labels a run; the first try is the present default."""
    found = []
    for n in range(tries):
        g = (Key(0) / "search" / n).generator()
        draw = {
            "rise": g.uniform(0.2, 2.0), "rise_sd": g.uniform(0.1, 1.2), "fall": g.uniform(0.0, 0.8), "fall_sd": g.uniform(0.05, 0.6),
            "rest_sd": g.uniform(0.05, 0.6), "length": g.uniform(0.5, 2.0), "covariate_sd": g.uniform(0.5, 2.0),
        }  # fmt: skip
        prior = UtilityPrior() if n == 0 else UtilityPrior(**{k: round(float(v), 3) for k, v in draw.items()})
        shares = {
            f"{world} {budget}": float(np.mean([max(-1.0, c.share(labelled(c, KeepRule(prior=prior, budget=budget, batch=20), r)))
                                                for c in cases if c.world == world for r in range(2 if budget else 1)]))
            for world in ("helpdesk", "tables") for budget in (0, 200)
        }  # fmt: skip
        found.append({**prior.model_dump(), **{k: round(v, 4) for k, v in shares.items()}})
        print(json.dumps(found[-1]), flush=True)
        write_text(out / "search.json", json.dumps(found, indent=1))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("runs/pool"))
    parser.add_argument("--out", type=Path, default=Path("runs/keep"))
    parser.add_argument("--tune", type=int, default=0, help="tries of the random search; 0 reports on the held-out seeds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tuning = [c for c in (*pool_cases(options.pool, TUNING), *table_cases(TABLES_TUNING)) if c.usable()]
    if options.tune:
        search(tuning, options.tune, options.out)
        return
    every = [*pool_cases(options.pool, HELD_OUT), *table_cases(TABLES_HELD_OUT)]
    cases = [c for c in every if c.usable()]
    answer: dict[str, Any] = {"excluded": sorted(c.name for c in every if not c.usable())}
    together: dict[str, list[Array]] = {}
    for world in ("helpdesk", "tables"):
        here = [c for c in cases if c.world == world]
        chosen = tuned([c for c in tuning if c.world == world])
        gains = outcome(here, chosen, KeepRule(prior=PRIORS[world]))
        answer[world] = {"settings": chosen, **report(here, gains, Key(1) / world)}
        for name, g in gains.items():
            together.setdefault(name, []).append(g)
    cases = [*(c for c in cases if c.world == "helpdesk"), *(c for c in cases if c.world == "tables")]
    gains = {name: np.concatenate(parts) for name, parts in together.items()}
    answer["together"] = report(cases, gains, Key(1) / "together")
    answer["strata"] = strata(cases, gains)
    answer["runs"] = [{"run": c.name, **{k: round(float(g[i]), 4) for k, g in gains.items()}} for i, c in enumerate(cases)]
    write_text(options.out / "keep.json", json.dumps(answer, indent=1))
    print(json.dumps({k: v for k, v in answer.items() if k not in ("runs", "strata")}, indent=1))


if __name__ == "__main__":
    main()
