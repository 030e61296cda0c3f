"""What to do next about an arm: small rules over its diagnoses, each with its threshold a setting and its evidence named.

| action | when | what it says |
|---|---|---|
| ``realign`` | a diagnosis of `realign_on` alarms | fit the reward model again where the policy is now |
| ``label`` | gold is unknown, and the kept checkpoint is not the best with a chance of `certain` | which comparisons to buy, and how many |
| ``raise_kl`` | the policy went further than `kl_excess` times the KL of the kept checkpoint, and stopping is advised | to about what KL |
| ``ensemble`` | a diagnosis of `ensemble_on` alarms | optimise several reward models: this one is unsure or wrong at its top |
| ``fix_bias`` | exploits, style or length alarm | which phrase or feature to break apart from preference in the data |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trueup.core.config import Config
from trueup.mismatch.diagnosis import Diagnosis
from trueup.mismatch.keep_rule import Kept
from trueup.stats.estimate import Estimate

Kind = Literal["realign", "label", "raise_kl", "ensemble", "fix_bias"]


class ActionSettings(Config):
    """When an action is advised."""

    realign_on: tuple[str, ...] = ("distribution_shift", "shift_by_kl", "goodhart")
    """Diagnoses of a reward model that orders the policy's replies worse than its own pairs; one alarm is enough."""
    ensemble_on: tuple[str, ...] = ("signal", "tail_mismatch")
    """Diagnoses of a reward model that is unsure, or wrong in its highest scores; one alarm is enough."""
    labels: int = Field(default=200, ge=1)
    """Comparisons after which no more are advised."""
    certain: float = Field(default=0.9, gt=0, le=1)
    """Chance of being the best from which on a kept checkpoint needs no more labels."""
    kl_excess: float = Field(default=1.25, ge=1)
    """KL of the last checkpoint over the kept one's from which on a stronger penalty is advised."""
    most_biases: int = Field(default=3, ge=1)
    """Phrases and features named, at most."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing to do, and why."""

    kind: Kind
    why: str
    """One sentence with the numbers that decided and the thresholds they were held against."""
    target: str | None = None
    """What it is about: a phrase, a feature, a reward model; None where it is the arm."""
    amount: float | None = None
    """How much: comparisons to buy, KL to stay near; None where no number belongs to it."""
    unit: str = ""
    """Of the amount."""
    diagnoses: tuple[str, ...] = ()
    """Names of those that alarmed."""
    evidence: tuple[Estimate, ...] = ()
    samples: tuple[str, ...] = ()
    """sample_ids one should read."""
    pairs: tuple[tuple[str, str], ...] = ()
    """sample_ids to compare, in this order of worth."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "kind": self.kind,
            "why": self.why,
            "target": self.target,
            "amount": self.amount,
            "unit": self.unit,
            "diagnoses": list(self.diagnoses),
            "evidence": [e.to_dict() for e in self.evidence],
            "samples": list(self.samples),
            "pairs": [list(p) for p in self.pairs],
        }


def advised(
    alarms: Sequence[Diagnosis],
    settings: ActionSettings,
    *,
    stop: bool,
    kept_kl: float | None,
    last_kl: float | None,
    labels: Kept | None,
) -> tuple[Action, ...]:
    """What to do about one arm, what mends most first.

    Args:
        alarms: the arm's diagnoses that alarm.
        settings: thresholds.
        stop: whether stopping is advised.
        kept_kl: KL of the kept checkpoint, nats; None where unknown.
        last_kl: of the last one.
        labels: what comparisons say of the checkpoints, where gold does not decide; None where it does, or nothing can be asked.
    """
    found: list[Action] = []
    by_name = {d.name: d for d in alarms}
    if stop and kept_kl is not None and last_kl is not None and last_kl > settings.kl_excess * kept_kl:
        why = (
            f"The policy went to {last_kl:.3g} nats, more than {settings.kl_excess:g} times the {kept_kl:.3g} of the kept checkpoint, and "
            f"what came after it did harm: raise the KL coefficient until the policy stays near {kept_kl:.2g} nats."
        )
        found.append(Action(kind="raise_kl", why=why, amount=kept_kl, unit="nats", diagnoses=_names(alarms, ("over_optimisation",))))
    found += _realign(by_name, settings)
    found += list(_biases(by_name, settings))[: settings.most_biases]
    found += _ensemble(by_name, settings)
    if labels is not None and labels.wanted and labels.chance < settings.certain and labels.n_labels < settings.labels:
        count = settings.labels - labels.n_labels
        why = (
            f"With {labels.n_labels} labels the best of the checkpoints is known with a chance of {labels.chance:.0%}, less than "
            f"{settings.certain:.0%}: buy up to {count} comparisons, these first, and decide again."
        )
        found.append(Action(kind="label", why=why, amount=count, unit="comparisons", pairs=labels.wanted))
    return tuple(found)


def _names(alarms: Sequence[Diagnosis], wanted: Sequence[str]) -> tuple[str, ...]:
    return tuple(d.name for d in alarms if d.name in wanted)


def _alarming(by_name: dict[str, Diagnosis], wanted: Sequence[str]) -> list[Diagnosis]:
    return [by_name[name] for name in wanted if name in by_name]


def _readable(diagnoses: Sequence[Diagnosis]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for d in diagnoses for s in d.samples))[:5]


def _picked(diagnoses: Sequence[Diagnosis], names: Sequence[str]) -> tuple[Estimate, ...]:
    return tuple(e for d in diagnoses for e in d.estimates if e.name in names)


def _realign(by_name: dict[str, Diagnosis], settings: ActionSettings) -> list[Action]:
    found = _alarming(by_name, settings.realign_on)
    if not found:
        return []
    evidence = _picked(found, ("drop_current", "accuracy_far", "slope_last"))
    why = (
        f"The reward model no longer orders what the policy writes ({', '.join(d.name for d in found)}): fit it again on comparisons of "
        "the policy's own replies."
    )
    names = tuple(d.name for d in found)
    return [Action(kind="realign", why=why, diagnoses=names, evidence=evidence, samples=_readable(found))]


def _ensemble(by_name: dict[str, Diagnosis], settings: ActionSettings) -> list[Action]:
    found = _alarming(by_name, settings.ensemble_on)
    if not found:
        return []
    evidence = _picked(found, ("doubt_last", "outlier_share_last", "gain_first_8", "promised_first_8"))
    why = (
        f"The score is unsure or wrong at its top ({', '.join(d.name for d in found)}): optimise an ensemble and count its disagreement "
        "against a reply."
    )
    names = tuple(d.name for d in found)
    return [Action(kind="ensemble", why=why, diagnoses=names, evidence=evidence, samples=_readable(found))]


def _biases(by_name: dict[str, Diagnosis], settings: ActionSettings) -> Iterator[Action]:
    """Exploits that alarm first, then features of style, then length; none twice."""
    seen: set[str] = set()
    for diagnosis, what in _biased(by_name):
        if what in seen:
            continue
        seen.add(what)
        evidence = tuple(e for e in diagnosis.estimates if _about(e.name, what) or (diagnosis.name == "length" and "partial" in e.name))
        why = (
            f"The reward model pays for '{what}' beyond its worth and the policy has taken it up ({diagnosis.name}): add comparisons in "
            "which it stands in the worse reply, or leave out those that taught it."
        )
        yield Action(kind="fix_bias", why=why, target=what, diagnoses=(diagnosis.name,), evidence=evidence, samples=_readable([diagnosis]))


def _about(name: str, what: str) -> bool:
    return name.endswith((f": {what}", f"_{what}"))


def _biased(by_name: dict[str, Diagnosis]) -> Iterator[tuple[Diagnosis, str]]:
    exploits, style, length = (by_name.get(name) for name in ("exploits", "style", "length"))
    if exploits is not None:
        s = exploits.series
        yield from ((exploits, str(what)) for what, alarm in zip(s.get("what", []), s.get("alarm", []), strict=True) if alarm)
    if style is not None:
        s = style.series
        columns = [s.get(name, []) for name in ("feature", "pays_low", "worth_high", "growth_low")]
        for what, pays, worth, growth in zip(*columns, strict=True):
            if None not in (pays, worth, growth) and pays > 0 and worth < 0 and growth > 0:
                yield style, str(what)
    if length is not None:
        yield length, "length"
