"""A small run with a planted over-optimisation, and how the report tests read what was written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from trueup.core.record import Label, SampleRecord
from trueup.core.rng import Key
from trueup.store.run import Run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
ARMS = ("static", "random_refit", "frft")


def make_run(
    root: Path, *, arms: Sequence[str] = ARMS, steps: int = 4, prompts: int = 12, gold: bool = True, evaluations: bool = True, seed: int = 0
) -> Path:
    """A small run in which the proxy climbs while gold rises and falls, less so under realignment."""
    generator = Key(seed).generator()
    records = []
    for arm in arms:
        for c in range(steps):
            pad = c / 3 if arm != "frft" else c / 6
            for p in range(prompts):
                for s in range(4):
                    noise = generator.normal(0, 0.3, 3)
                    proxy = 0.5 * c + 2 * pad + noise[0]
                    records.append(
                        SampleRecord(
                            run="t",
                            arm=arm,
                            seed=seed,
                            step=10 * c,
                            split="test",
                            prompt_id=f"p{p}",
                            sample_id=f"{arm}-{c}-{p}-{s}",
                            policy_id=arm,
                            prompt=f"how? {HOSTILE}" if p == 0 else "how?",
                            response="press save" + " thank you so much" * (generator.random() < pad) + HOSTILE * (p == 1),
                            n_tokens=3 + c,
                            finished=True,
                            kl_policy_ref_exact_nats=float(c + abs(noise[2])),
                            scores={"rm": proxy},
                            proxy_fixed=proxy,
                            proxy_current=proxy,
                            gold=0.5 * c - 1.5 * pad**2 + noise[1] if gold else None,
                            evaluations={"hedging": float(generator.random() < pad)} if evaluations else {},
                        )
                    )
    for i in range(60):
        score = generator.normal(0, 1, 2)
        for j in (0, 1):
            label = Label(annotator="a", other_sample_id=f"o{i}-{1 - j}", preference=float(score[j] > score[1 - j]))
            records.append(
                SampleRecord(
                    run="t",
                    arm="offline",
                    seed=seed,
                    step=None,
                    split="validation",
                    prompt_id=f"o{i}",
                    sample_id=f"o{i}-{j}",
                    policy_id="source",
                    prompt="how?",
                    response="press",
                    scores={"rm": score[j]},
                    proxy_fixed=score[j],
                    gold=score[j] if gold else None,
                    labels=[label],
                )
            )
    with Run.create(root, {"name": "t"}) as run:
        run.write_records("all", records)
        run.write_manifest(name=f"t {HOSTILE}", seed=seed, config_digest="0" * 16, device="cpu", arms=list(arms), main_arm=arms[0])
    return root


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(resources.files("trueup.report").joinpath("schema.json").read_text(encoding="utf-8"))
    return loaded


def check(root: Path) -> dict[str, Any]:
    """The run's report.json, valid against the schema and without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in report.json")

    data: dict[str, Any] = json.loads((root / "report/report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    jsonschema.Draft202012Validator(schema()).validate(data)
    return data


def page(root: Path, name: str = "index.html") -> str:
    return (root / "report" / name).read_text(encoding="utf-8")


def pages(root: Path) -> dict[str, str]:
    """Every page of the report by its name."""
    return {p.name: page(root, p.name) for p in sorted((root / "report").glob("*.html"))}
