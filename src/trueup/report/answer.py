"""The first screen's three sentences: is the reward climbing while the truth falls, which checkpoint to keep, did realignment help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import TONES, Answer
from trueup.report.text import between, number, signed

ASK_FALL = "Does the reward climb while the truth falls?"
ASK_KEEP = "Which checkpoint should be kept?"
ASK_REALIGN = "Did realignment differ from a random refit?"


def answers(data: Mapping[str, Any]) -> list[Answer]:
    """Three answers, each with its word, its colour and one sentence.

    Args:
        data: what report.json holds.
    """
    if not data["arms"] and data["reward"]:
        return [_accuracy(data["reward"])]
    return [_fall(data), _keep(data), _realigned(data["comparison"], [a["role"] for a in data["arms"]])]


def _fall(data: Mapping[str, Any]) -> Answer:
    arm = data["main_arm"]
    checkpoints = next((a["checkpoints"] for a in data["arms"] if a["name"] == arm), [])
    found = next((d for d in data["diagnoses"] if d["name"] == "over_optimisation" and d["arm"] == arm), None)
    rise = _change(checkpoints, "proxy_fixed")
    risen = "" if rise is None else f"proxy moved by {signed(rise)} from the first checkpoint to the last"
    if found is None or found["verdict"] == "not enough data":
        why = "the question was not asked" if found is None else found["rule"].removeprefix("Not enough data: ").rstrip(".")
        return Answer(ask=ASK_FALL, word="Cannot be said", tone="plain", sentence=_sentence(f"In arm {arm} {why}" + (f"; {risen}" if risen else "")))
    gain, drop = _named(found["estimates"], "gain"), _named(found["estimates"], "drop")
    numbers = f"gold rose by {_with(gain)} to its peak and then lost {_with(drop)}" if drop else "gold was followed to the last checkpoint"
    if found["verdict"] == "alarm":
        word, tone = "Yes", "alarm"
    else:
        word, tone = "Not shown", "quiet"
        numbers += ", which is no fall that the rule counts"
    return Answer(ask=ASK_FALL, word=word, tone=tone, sentence=_sentence(f"In arm {arm} {risen or 'the proxy was followed'}, while {numbers}"))


def _keep(data: Mapping[str, Any]) -> Answer:
    decision = data["decision"]
    if decision is None or decision["keep_step"] is None:
        why = "the run has no checkpoints" if decision is None else decision["why"]
        return Answer(ask=ASK_KEEP, word="Cannot be said", tone="plain", sentence=_sentence(why))
    return Answer(ask=ASK_KEEP, word=f"Step {decision['keep_step']}", tone="note", sentence=_sentence(f"Arm {decision['arm']}: {decision['why']}"))


def _realigned(comparison: Mapping[str, Any], roles: Sequence[str]) -> Answer:
    contrasts = comparison["contrasts"]
    if comparison["verdict"] is None or not contrasts:
        missing = [r for r in ("realigned", "random refit") if r not in roles]
        why = f"The run has no {' and no '.join(missing)} arm" if missing else "The arms share no checkpoint with gold"
        return Answer(ask=ASK_REALIGN, word="Not measured", tone="plain", sentence=_sentence(why))
    first = contrasts[0]
    gold = _named(first["estimates"], "gold_last")
    word = {"higher": "Yes, better", "lower": "Yes, worse"}.get(first["verdict"], str(first["verdict"]).capitalize())
    if gold is None:
        return Answer(ask=ASK_REALIGN, word=word, tone="plain", sentence=_sentence(first["rule"]))
    said = f"At step {first['last_step']} gold of {first['arm']} minus {first['against']} is {signed(gold['value'])} {between(gold)} over {gold['n']} shared prompts of this one run"
    if first["verdict"] == "no difference shown":
        said += "; the interval covers 0"
    return Answer(ask=ASK_REALIGN, word=word, tone=TONES.get(first["verdict"], "plain"), sentence=_sentence(said))


def _accuracy(reward: Sequence[Mapping[str, Any]]) -> Answer:
    known = [r for r in reward if (r.get("accuracy") or {}).get("value") is not None]
    ask = "How often does a reward model order held-out pairs as people did?"
    if not known:
        return Answer(ask=ask, word="Not measured", tone="plain", sentence="No reward model of this run has a held-out accuracy.")
    best = max(known, key=lambda r: float(r["accuracy"]["value"]))
    accuracy = best["accuracy"]
    said = f"{best['name']} reaches {number(100 * accuracy['value'], 1)} % [{_percent(accuracy['low'])}, {_percent(accuracy['high'])}] on held-out pairs, n = {accuracy['n']}; half is chance"
    if len(known) > 1:
        said += f"; it is the highest of {len(known)}, so the choice itself flatters it a little"
    return Answer(ask=ask, word=f"{number(100 * accuracy['value'], 1)} %", tone="note", sentence=_sentence(said))


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, 1)


def _change(checkpoints: Sequence[Mapping[str, Any]], column: str) -> float | None:
    known = [c[column]["value"] for c in checkpoints if c[column] is not None and c[column]["value"] is not None]
    return known[-1] - known[0] if len(known) > 1 else None


def _named(estimates: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((e for e in estimates if e["name"] == name and e["value"] is not None), None)


def _with(estimate: Mapping[str, Any] | None) -> str:
    return "an unknown amount" if estimate is None else f"{number(estimate['value'])} {between(estimate)}".strip()


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
