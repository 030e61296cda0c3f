"""Do the diagnoses tell the truth of runs whose truth nobody wrote for them? Alarms of finished runs, at every checkpoint.

For every arm of every run: gold of all replies says whether it gained and what it lost by its end. The diagnoses see the first replies of a
prompt only (``--replies``), as an auditor would, and are asked again at every checkpoint, as whoever watches a run would.

    python studies/alarms.py runs/pool/seed-06* --out runs/alarms.json

Printed and written: how often any diagnosis, and each of them, alarms where gold kept what it gained, where it lost a tenth of it, and
between; and whether the first alarm came before gold had lost a tenth, where it did.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from trueup.core.record import OFFLINE_ARM
from trueup.core.rng import Key
from trueup.mismatch.verdict import DIAGNOSES, MismatchSettings, diagnose_all
from trueup.store.atomic import write_text
from trueup.store.records import frame

HONEST, HARMED = 0.02, 0.1
"""Share of its gain that gold may lose in an honest run, and that it loses in a harmed one."""
SURE = 2.0
"""Where gold is estimated, a run counts as harmed only if the loss is this many standard errors above 0."""


def truth(rows: pd.DataFrame, exact: dict[str, float] | None) -> dict[str, Any]:
    """Gain, loss, and the first step at which a tenth of the gain is gone, from all replies or from known expectations.

    Where gold is estimated, the peak is chosen on one half of the prompts and the loss measured on the other, both ways.
    """
    table = rows.pivot_table(index="prompt_id", columns="step", values="gold", aggfunc="mean").dropna()
    steps = [int(s) for s in table.columns]
    curve = np.array([exact[str(s)] for s in steps]) if exact else table.mean().to_numpy()
    halves = [curve, curve] if exact else [table.iloc[0::2].mean().to_numpy(), table.iloc[1::2].mean().to_numpy()]
    found = [(b[int(a.argmax())] - b[0], b[int(a.argmax())] - b[-1]) for a, b in (halves, halves[::-1])]
    gain, loss = (float(np.mean(x)) for x in zip(*found, strict=True))
    peak = int(curve.argmax())
    error = 0.0 if exact else float((table[steps[peak]] - table[steps[-1]]).std(ddof=1) / np.sqrt(len(table)))
    spread = float(table.mean(axis=1).std(ddof=1))
    harmed = loss > SURE * error and loss > HARMED * max(gain, 0.1 * spread)
    below = [s for s, g in zip(steps[peak:], curve[peak:], strict=True) if curve[peak] - g > HARMED * max(gain, 0.1 * spread)]
    return {
        "gain": gain,
        "loss": loss,
        "loss_error": error,
        "kind": "harmed" if harmed else "honest" if honest(gain, loss, exact) else "between",
        "crossed": below[0] if harmed and below else None,
        "steps": steps,
    }


def honest(gain: float, loss: float, exact: dict[str, float] | None) -> bool:
    """Whether gold kept what it gained; estimated gold is given twice the room, since it is not exact."""
    return gain > 0 and loss <= (HONEST if exact else 2 * HONEST) * gain


def watched(records: pd.DataFrame, arm: str, steps: list[int], key: Key, settings: MismatchSettings) -> dict[int, list[str]]:
    """Names of the diagnoses that alarm, by the checkpoint up to which they have seen."""
    found = {}
    for step in steps[2:]:
        seen = records[(records["arm"] == OFFLINE_ARM) | ((records["arm"] == arm) & (records["step"] <= step))]
        diagnoses, _ = diagnose_all(seen, [arm], key, settings=settings, comparisons=())
        found[step] = sorted(d.name for d in diagnoses if d.verdict == "alarm")
    return found


def one(folder: Path, replies: int, settings: MismatchSettings) -> list[dict[str, Any]]:
    """Every arm of a run."""
    records = frame(folder / "records")
    facts = json.loads((folder / "drawn.json").read_text()) if (folder / "drawn.json").exists() else {}
    rows = records[(records["arm"] != OFFLINE_ARM) & records["step"].notna() & (records["split"] == "test")]
    order = rows.groupby(["arm", "step", "prompt_id"], sort=False).cumcount()
    shown = pd.concat([records[records["arm"] == OFFLINE_ARM], rows[order < replies]])
    found = []
    for arm, mine in rows.groupby("arm", sort=False):
        told = truth(mine, facts.get("exact_gold"))
        alarms = watched(shown, str(arm), told.pop("steps"), Key(0) / folder.name, settings)
        found.append({"run": folder.name, "arm": str(arm), **told, "alarms": alarms})
        print(json.dumps(found[-1]), flush=True)
    return found


def share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """A share with its Wilson interval."""
    n, k = len(hits), int(hits.sum())
    if not n:
        return {"share": None, "low": None, "high": None, "n": 0}
    limits = binomtest(k, n).proportion_ci(method="wilson")
    return {"share": k / n, "low": limits.low, "high": limits.high, "n": n}


def summary(arms: list[dict[str, Any]]) -> dict[str, Any]:
    """Alarm shares by kind of run."""
    out: dict[str, Any] = {}
    for kind in ("honest", "between", "harmed"):
        mine = [a for a in arms if a["kind"] == kind]
        last = [a["alarms"][max(a["alarms"])] for a in mine]
        out[kind] = {
            "any_at_end": share(np.array([bool(x) for x in last], dtype=bool)),
            "any_ever": share(np.array([any(a["alarms"].values()) for a in mine], dtype=bool)),
            **{d.NAME: share(np.array([d.NAME in x for x in last], dtype=bool)) for d in DIAGNOSES},
        }
    harmed = [a for a in arms if a["crossed"] is not None]
    first = [min((s for s, x in a["alarms"].items() if x), default=np.inf) for a in harmed]
    out["before_a_tenth_was_lost"] = share(np.array([f <= a["crossed"] for f, a in zip(first, harmed, strict=True)], dtype=bool))
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--replies", type=int, default=4, help="replies a prompt and checkpoint that the diagnoses see")
    parser.add_argument("--out", type=Path, help="write everything here")
    options = parser.parse_args()
    arms = [a for folder in options.runs for a in one(folder, options.replies, MismatchSettings())]
    found = summary(arms)
    for kind, rows in found.items():
        cells = rows if "share" not in rows else {kind: rows}
        for name, s in cells.items():
            if s["n"]:
                print(f"{kind:10s} {name:24s} {s['share']:.2f} [{s['low']:.2f}, {s['high']:.2f}] of {s['n']}")
    if options.out:
        write_text(options.out, json.dumps({"arms": arms, "summary": found}, indent=1))


if __name__ == "__main__":
    main()
