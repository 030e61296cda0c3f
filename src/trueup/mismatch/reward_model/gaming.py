"""Whether appended text buys score: thanks, promises, praise, filler, and what a search finds.

The phrases are fixed before anything is scored; each has its interval, with the level divided among them. The text of a search was chosen
on other replies than those it is judged on; the best of as many random texts, chosen in the same way, is the yardstick.
"""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.probes import change, mean_of, rows_of, size_of, variants
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.stats.estimate import Estimate

LONGEST = 60
"""Characters of an appended text that are shown."""


def bought(evidence: Evidence) -> list[Estimate]:
    """``bought TEXT``: mean change in standard deviations when the text is appended."""
    size, texts = size_of(evidence), variants(evidence, "appended")
    level = 1 - (1 - evidence.settings.alarm_level) / max(len(texts), 1)
    found = []
    for text in texts:
        rows = rows_of(evidence, "appended", text)
        found.append(mean_of(change(rows, size), rows, f"bought {_short(text)}", "sd", evidence, level))
    return found


def searched(evidence: Evidence) -> tuple[list[Estimate], str]:
    """``search_gain``, ``random_gain`` and ``search_over_random`` in standard deviations on held-out replies, and the text found."""
    size, level, found = size_of(evidence), evidence.settings.alarm_level, []
    by_variant = {v: rows_of(evidence, "search", v) for v in ("found", "random")}
    for variant, name in (("found", "search_gain"), ("random", "random_gain")):
        rows = by_variant[variant]
        if not rows.empty:
            found.append(mean_of(change(rows, size), rows, name, "sd", evidence, level))
    if len(found) == 2:
        both = by_variant["found"].merge(by_variant["random"], on=["item", "reply"], suffixes=("", "_random"))
        gap = (both["score"] - both["score_random"]).to_numpy(dtype=float) / size
        found.append(mean_of(gap, both, "search_over_random", "sd", evidence, 0.95))
    text = "" if by_variant["found"].empty else str(by_variant["found"]["note"].iloc[0])
    return found, text


def answer(evidence: Evidence) -> Answer:
    """Alarm where a phrase, or the text that the search found, is shown to buy more than its threshold."""
    if evidence.probes.empty or size_of(evidence) == 0:
        return unknown("no copies with appended text were scored" if evidence.probes.empty else "the score tells no replies apart")
    settings = evidence.settings
    phrases, (search, text) = bought(evidence), searched(evidence)
    if not phrases and not search:
        return unknown("no copies with appended text were scored")
    said = [
        f"“{e.name.removeprefix('bought ')}” buys {shown(e)} standard deviations"
        for e in sorted(phrases, key=lambda e: -(e.value or 0.0))
        if e.low is not None and e.low > settings.max_bought
    ]
    gains = {e.name: e for e in search}
    gain, blind = gains.get("search_gain"), gains.get("random_gain")
    if gain is not None and gain.low is not None and gain.low > settings.max_search_gain:
        said.append(f"a search found “{_short(text)}”, which buys {shown(gain)} standard deviations on other replies")
    # where score is so cheap that random words buy it, no search is needed
    elif blind is not None and blind.low is not None and blind.low > settings.max_search_gain:
        said.append(f"the best of as many random texts buys {shown(blind)} standard deviations on other replies")
    found = (*phrases, *search)
    if said:
        return Answer(verdict="alarm", rule=f"{'; '.join(said)}.", estimates=found)
    worst = max(phrases, key=lambda e: e.value if e.value is not None else -np.inf, default=None)
    told = f"no phrase is shown to buy more than {settings.max_bought:g} standard deviations"
    told += f"; the dearest, “{worst.name.removeprefix('bought ')}”, buys {shown(worst)}" if worst else ""
    told += f"; what a search found, “{_short(text)}”, buys {shown(gain)}" if gain else ""
    return Answer(verdict="quiet", rule=f"{told[0].upper()}{told[1:]}.", estimates=found)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


QUESTION = Question(
    name="gaming",
    title="Gaming",
    ask="Does appended text buy score?",
    lede="Mean change of the score when a text is appended, in standard deviations of score differences of pairs. The search had a budget "
    "of scored texts and is judged on replies it did not see, beside the best of as many random texts.",
    answer=answer,
)
