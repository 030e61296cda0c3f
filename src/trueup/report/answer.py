"""The first screen's three sentences: is the reward climbing while the truth falls, which checkpoint to keep, did realignment help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import TONES, Answer
from trueup.report.text import between, number, plural, signed, title

ASK_FALL = "Does the reward climb while the truth falls?"
ASK_KEEP = "Which checkpoint should be kept?"
ASK_ALARMS = "Where do the parts disagree?"
ASK_REALIGN = "Did realignment differ from a random refit?"


def answers(data: Mapping[str, Any]) -> list[Answer]:
    """Three answers, each with its word, its colour and one sentence.

    Args:
        data: what report.json holds.
    """
    if not data["arms"] and data["reward"]:
        return [_accuracy(data["reward"])]
    roles = [a["role"] for a in data["arms"]]
    compared = {"realigned", "random refit"} & set(roles)
    return [_fall(data), _keep(data), _realigned(data["comparison"], roles) if compared else _alarms(data)]


def _fall(data: Mapping[str, Any]) -> Answer:
    arm = data["main_arm"]
    checkpoints: list[dict[str, Any]] = next((a["checkpoints"] for a in data["arms"] if a["name"] == arm), [])
    found = next((d for d in data["diagnoses"] if d["name"] == "over_optimisation" and d["arm"] == arm), None)
    if found is None or found["verdict"] == "not enough data":
        why = "the question was not asked" if found is None else found["rule"].removeprefix("Not enough data: ").rstrip(".")
        return Answer(ask=ASK_FALL, word="Cannot be said", tone="plain", sentence=_sentence(f"In arm {arm} {why}{_went(checkpoints)}"))
    gain, drop, rise = (_named(found["estimates"], n) for n in ("gain", "drop", "proxy_rise_after_peak"))
    fall = f"gold gained {_with(gain)} up to its peak and lost {_with(drop)} after it"
    said = f"In arm {arm} {fall}, while the proxy moved by {_with(rise, sign=True)}"
    alarm = found["verdict"] == "alarm"
    if not alarm:
        said += "; the rule counts that as no fall"
    return Answer(ask=ASK_FALL, word="Yes" if alarm else "Not shown", tone="alarm" if alarm else "quiet", sentence=_sentence(said))


def _went(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    known = [c["proxy_fixed"] for c in checkpoints if c["proxy_fixed"] is not None]
    return f"; the proxy went from {_with(known[0])} to {_with(known[-1])}" if len(known) > 1 else ""


def _keep(data: Mapping[str, Any]) -> Answer:
    decision = data["decision"]
    if decision is None or decision["keep_step"] is None:
        why = "the run has no checkpoints" if decision is None else decision["why"]
        return Answer(ask=ASK_KEEP, word="Cannot be said", tone="plain", sentence=_sentence(why))
    word, gain, loss = (
        f"Step {decision['keep_step']}",
        _named(decision["evidence"], "gain_of_kept"),
        _named(decision["evidence"], "loss_after_kept"),
    )
    if gain is None or loss is None:
        return Answer(ask=ASK_KEEP, word=word, tone="plain", sentence=_sentence(f"Arm {decision['arm']}: {decision['why']}"))
    steps = [c["step"] for a in data["arms"] if a["name"] == decision["arm"] for c in a["checkpoints"]]
    if len(steps) < 2:
        return Answer(
            ask=ASK_KEEP, word=word, tone="plain", sentence=f"Arm {decision['arm']} has one checkpoint, so there is nothing to choose."
        )
    if decision["keep_step"] == steps[0]:
        said = f"In arm {decision['arm']} no later checkpoint was shown to be better in {decision['basis']}"
    else:
        said = f"In arm {decision['arm']} it gained {_with(gain)} in {decision['basis']} over the first checkpoint"
    if decision["keep_step"] == steps[-1]:
        said += ", and no earlier one gained more"
    else:
        joined = "; the first one" if decision["keep_step"] == steps[0] else ", and"
        said += f"{joined} lies {_with(loss, sign=True)} above the last one, step {steps[-1]}"
    said += ", measured on prompts that did not choose. " + (
        "Stop: training on does harm." if decision["stop"] else "Nothing shown speaks for stopping."
    )
    return Answer(ask=ASK_KEEP, word=word, tone="note", sentence=_sentence(said))


def _realigned(comparison: Mapping[str, Any], roles: Sequence[str]) -> Answer:
    first = next((c for c in comparison["contrasts"] if c["roles"] == ["realigned", "random refit"]), None)
    if first is None:
        missing = [r for r in ("realigned", "random refit") if r not in roles]
        return Answer(
            ask=ASK_REALIGN, word="Not measured", tone="plain", sentence=_sentence(f"The run has no {' and no '.join(missing)} arm")
        )
    decisive = _named(first["estimates"], comparison["decided_by"])
    if decisive is None:
        return Answer(
            ask=ASK_REALIGN, word="Not measured", tone="plain", sentence=_sentence(first["rule"].removeprefix("Not enough data: "))
        )
    word = {"better": "Yes, better", "worse": "Yes, worse"}.get(first["verdict"], str(first["verdict"]).capitalize())
    where = {"gold_after_refit": "after the first refit", "gold_at_last": "at the last checkpoint", "gold_at_equal_kl": "at equal KL"}
    which = f"{first['arm']} minus {first['against']} {where.get(decisive['name'], '')}"
    said = f"Gold of {which} is {signed(decisive['value'])} {between(decisive)}"
    if first["verdict"] == "no difference shown":
        said += ", which covers 0"
    said += f"; {decisive['n']} shared prompts of one run, so variation between seeds is not in it"
    return Answer(ask=ASK_REALIGN, word=word, tone=TONES.get(first["verdict"], "plain"), sentence=_sentence(said))


def _alarms(data: Mapping[str, Any]) -> Answer:
    """How many of all questions raise an alarm, and which."""
    arm = data["main_arm"]
    asked = [d for d in data["diagnoses"] if d["arm"] == arm]
    loud = [title(d["name"]).lower() for d in asked if d["verdict"] == "alarm"]
    silent = sum(d["verdict"] == "not enough data" for d in asked)
    said = f"Arm {arm}: {plural(len(asked), 'question')} asked" + (f", {silent} of which the records cannot answer" if silent else "")
    said += f". Alarms: {', '.join(loud)}" if loud else ". None raises an alarm"
    word = plural(len(loud), "alarm") if loud else "No alarm" if silent < len(asked) else "Cannot be said"
    return Answer(
        ask=ASK_ALARMS, word=word, tone="alarm" if loud else "quiet" if silent < len(asked) else "plain", sentence=_sentence(said)
    )


def _accuracy(reward: Sequence[Mapping[str, Any]]) -> Answer:
    known = [r for r in reward if (r.get("accuracy") or {}).get("value") is not None]
    ask = "How often does a reward model order held-out pairs as people did?"
    if not known:
        return Answer(ask=ask, word="Not measured", tone="plain", sentence="No reward model of this run has a held-out accuracy.")
    best = max(known, key=lambda r: float(r["accuracy"]["value"]))
    accuracy = best["accuracy"]
    reached = f"{number(100 * accuracy['value'], 1)} % [{_percent(accuracy['low'])}, {_percent(accuracy['high'])}]"
    said = f"{best['name']} reaches {reached} on held-out pairs, n = {accuracy['n']}; half is chance"
    if len(known) > 1:
        said += f"; it is the highest of {len(known)}, so the choice itself flatters it a little"
    return Answer(ask=ask, word=f"{number(100 * accuracy['value'], 1)} %", tone="note", sentence=_sentence(said))


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, 1)


def _named(estimates: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((e for e in estimates if e["name"] == name and e["value"] is not None), None)


def _with(estimate: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    if estimate is None:
        return "an unknown amount"
    return f"{signed(estimate['value']) if sign else number(estimate['value'])} {between(estimate)}".strip()


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
