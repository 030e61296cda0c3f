"""`trueup compare`: one run of all optimizers, one of all decoders, and their paths side by side."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from trueup.core.rng import Key
from trueup.mismatch.policy_evaluation.equal_budget import COST, KL, Compared, at_budgets, paths_of
from trueup.pipeline.arm import STAGE as POLICY
from trueup.pipeline.compare_config import CompareConfig, DecoderPathConfig
from trueup.pipeline.config import RunConfig
from trueup.pipeline.decode import STAGE as DECODE
from trueup.pipeline.decode import decode
from trueup.pipeline.decode_config import DecodeConfig, DecodingArmConfig
from trueup.pipeline.events import Listener, nobody
from trueup.pipeline.run import execute
from trueup.pipeline.sampling import decoding_for
from trueup.store.records import frame
from trueup.store.run import Run

SHARES = (0.25, 0.5, 1.0)
"""Of what the cheapest optimizer took, where no cost is named."""


def compare(config: CompareConfig, out: Path, *, resume: bool = False, base: Path | None = None, on_event: Listener = nobody) -> Compared:
    """Run optimizers and decoders, or go on with what was stopped, and compare them.

    Args:
        config: everything the result depends on.
        out: folder; the run of the optimizers goes to ``run``, that of the decoders to ``decode``.
        resume: go on with what is in the folder.
        base: folder that relative paths of the configuration are read from; the present one if None.
        on_event: told of every stage and step.

    Raises:
        UserError: anything the user can fix; what was done before stays and can be resumed.
    """
    base = base or Path.cwd()
    run = out / "run"
    execute(config.run, run, resume=resume and run.exists(), base=base, on_event=on_event)
    parts = [frame(run / "records")]
    costs = {arm.name: _trained(run, config.run, arm.name) for arm in config.run.arms}
    if config.decoders:
        folder = out / "decode"
        decode(_decoding(config, run.resolve()), folder, resume=resume and folder.exists(), base=base, on_event=on_event)
        found = frame(folder / "records")
        parts += [_as_path(found, d) for d in config.decoders]
        costs |= {d.name: _answered(folder, d) for d in config.decoders}
    names = config.names()
    paths = paths_of(pd.concat(parts, ignore_index=True), names, costs)
    trained = [costs[a.name][-1] for a in config.run.arms]
    budgets = {KL: config.kl_nats, COST: config.core_hours or tuple(s * min(trained) for s in SHARES)}
    against = config.against or names[0]
    assert config.run.policy is not None
    kinds = {a.name: (a.optimizer or config.run.policy.optimizer).kind for a in config.run.arms}
    kinds |= {d.name: ", ".join(dict.fromkeys(s.kind for s in d.settings)) for d in config.decoders}
    return Compared(
        name=config.run.name,
        seed=config.run.seed,
        against=against,
        paths=paths,
        found=at_budgets(paths, budgets, against, Key(config.run.seed) / "compare"),
        kinds=kinds,
        decoders=tuple(d.name for d in config.decoders),
    )


def _decoding(config: CompareConfig, run: Path) -> DecodeConfig:
    """The decoders as one run, every setting an arm, on the test prompts of the same world."""
    c, sampling = config.run, decoding_for(config.run)
    return DecodeConfig(
        name=c.name,
        seed=c.seed,
        policy=str(run / "checkpoints" / "sft"),
        reward_models=(str(run / "checkpoints" / "reward"),),
        fit_prefix=config.fit_prefix,
        world=c.world,
        split="test",
        samples_per_prompt=c.probe.samples_per_prompt,
        max_completion_length=sampling.max_tokens,
        temperature=sampling.temperature,
        threads=c.threads,
        arms=tuple(DecodingArmConfig(name=_place(d, i), decoding=s) for d in config.decoders for i, s in enumerate(d.settings)),
    )


def _place(path: DecoderPathConfig, number: int) -> str:
    return f"{path.name}-{number}"


def _as_path(records: pd.DataFrame, path: DecoderPathConfig) -> pd.DataFrame:
    """The settings of a decoder as the points of one path."""
    steps = {_place(path, i): i for i in range(len(path.settings))}
    rows = records[records["arm"].isin(steps)].copy()
    rows["step"] = rows["arm"].map(steps)
    rows["arm"] = path.name
    return rows


def _trained(run: Path, config: RunConfig, arm: str) -> list[float]:
    """Core-hours of an arm's training up to each of its probes; refits included."""
    rows = [r for r in Run(run).metrics() if r["arm"] == arm]
    known = frame(run / "records")
    probed = sorted(int(s) for s in known[(known["arm"] == arm) & (known["split"] == "test")]["step"].unique())
    found = []
    updates = {r["step"]: i for i, r in enumerate(rows) if r["stage"] == POLICY}
    for step in probed:
        upto = updates[step - 1] + 1 if step else 0
        spent = sum(float(r.get("seconds", 0.0)) for r in rows[:upto])
        found.append(_core_hours(spent, config.threads))
    return found


def _answered(folder: Path, path: DecoderPathConfig) -> list[float]:
    """Core-hours of answering the test prompts at each setting."""
    rows = [r for r in Run(folder).metrics() if r["stage"] == DECODE]
    return [_core_hours(sum(float(r["seconds"]) for r in rows if r["arm"] == _place(path, i)), None) for i in range(len(path.settings))]


def _core_hours(seconds: float, threads: int | None) -> float:
    return seconds * (threads or torch.get_num_threads()) / 3600
