"""The page's sections, from the content of report.json and the rows of the sample table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.answer import answers
from trueup.report.blocks import Absent, Block, Card, Page, Samples, Section, Table
from trueup.report.comparison import comparison_block
from trueup.report.curves import tracking
from trueup.report.diagnoses import Places, diagnosis_blocks
from trueup.report.numbers import PLACES, number_blocks
from trueup.report.reward_models import reward_blocks
from trueup.report.samples import SampleTable
from trueup.report.text import duration, estimate_text, plural, signed, title
from trueup.report.what_to_do import to_do_blocks

LEDES = {
    "reward_policy": "Does the reward model still mean what it meant, on what the policy now writes?",
    "reward_evaluation": "Does the reward model reward what the evaluations measure, or something that comes along with it?",
    "policy_evaluation": "As the reward rose, what happened to everything else that people care about?",
}


def build_page(data: Mapping[str, Any]) -> Page:
    """The page of a run without a policy."""
    sections: list[Section] = [] if data["reward"] is None else [reward_section(data)]
    why = "This run trained no policy, so nothing can be said about over-optimisation, distribution shift or tracking."
    blocks = [Absent(what="No policy.", why=why)]
    sections.append(Section(anchor="links", title="The three links", lede="Between reward model, policy and evaluation.", blocks=blocks))
    return Page(
        title=str(data["name"]),
        meta=meta(data),
        answers=answers(data),
        headline=None,
        sections=sections,
        samples=None,
        facts=facts(data),
    )


def reward_section(data: Mapping[str, Any]) -> Section:
    """Accuracy of reward models fitted alone."""
    lede = "Accuracy on held-out pairs, without any policy."
    return Section(anchor="reward", title="Reward models", lede=lede, blocks=reward_blocks(data["reward"]))


def meta(data: Mapping[str, Any]) -> list[str]:
    """The line below the title."""
    count, run = data["records"], data["run"]
    parts = [plural(len(data["arms"]), "arm")] if data["arms"] else ["reward models only"]
    if data["arms"]:
        parts.append(plural(max(len(a["checkpoints"]) for a in data["arms"]), "checkpoint") + " an arm")
        parts.append(plural(count["prompts"], "test prompt"))
        parts.append(plural(count["checkpoint_replies"], "reply"))
    if run.get("seed") is not None:
        parts.append(f"seed {run['seed']}")
    if run.get("wall_s") is not None:
        parts.append(duration(run["wall_s"]))
    return parts


def first_sections(data: Mapping[str, Any], places: Places) -> tuple[Section, Section]:
    """The three numbers, and what to do; ``places`` are those of replies that are shown."""
    lede = (
        "One number a link, between 0 and 1; 1 means that its two parts agree. What stands for the truth is its basis, and numbers of "
        "different bases are not compared."
    )
    return (
        Section(anchor="numbers", title="Three links, three numbers", lede=lede, blocks=number_blocks(data)),
        Section(
            anchor="what-to-do",
            title="What to do",
            lede="Decided by gold, evaluations or labels, and never by the proxy alone.",
            blocks=to_do_blocks(data, places),
        ),
    )


def link_section(data: Mapping[str, Any], link: str, places: Places | None = None) -> Section:
    """The diagnoses of a link.

    Args:
        data: content of report.json.
        link: which.
        places: of the replies that cards lead to.
    """
    file, heading = PLACES[link]
    blocks = diagnosis_blocks(data, link, places)
    if link == "reward_policy":
        blocks.append(comparison_block(data))
    if link == "policy_evaluation":
        blocks = _policy_evaluation(data, blocks)
    return Section(anchor=file.removesuffix(".html"), title=heading, lede=LEDES[link], blocks=blocks)


def _policy_evaluation(data: Mapping[str, Any], blocks: list[Block]) -> list[Block]:
    """The diagnoses, with the curves of all evaluations before them."""
    figures = tracking(data)
    if figures is not None:
        heading = "What did reward, gold and every evaluation do along training?"
        blocks.insert(0, Card(anchor="tracking-figure", heading=heading, figures=[figures], tables=[_checkpoint_table(data)]))
    else:
        blocks.insert(0, Absent(what="No curves.", why="The run has a single checkpoint; a curve needs two."))
    if not any(c["evaluations"] for a in data["arms"] for c in a["checkpoints"]):
        blocks.append(Absent(what="No evaluations.", why="None were recorded, so the reward can only be compared with gold."))
    return blocks


def _checkpoint_table(data: Mapping[str, Any]) -> Table:
    """Every number of the curves, for those who want numbers."""
    names = sorted({n for a in data["arms"] for c in a["checkpoints"] for n in c["evaluations"]})
    columns = ["kl_nats", "proxy_fixed", "proxy_current", "gold"]
    rows = [
        [arm["name"], str(c["step"]), *(estimate_text(c[n]) for n in columns), *(estimate_text(c["evaluations"].get(n)) for n in names)]
        for arm in data["arms"]
        for c in arm["checkpoints"]
    ]
    heads = ["Arm", "Step", "KL (nats)", "Proxy, first RM", "Proxy, RM in force", "Gold", *(title(n) for n in names)]
    return Table(columns=heads, rows=rows, folded="All checkpoints as a table")


def learned(data: Mapping[str, Any]) -> Section:
    """Phrases that the policy took up."""
    lede = (
        "Phrases of one to four words whose share of replies grew most from the first to the last checkpoint. "
        "Proxy and gold: mean of replies with the phrase minus replies without it, to the same prompt at the same checkpoint."
    )
    blocks: list[Block] = []
    for arm in data["arms"]:
        if len(arm["checkpoints"]) < 2:
            blocks.append(Absent(what=f"{arm['name']}:", why="one checkpoint shows no growth."))
        elif not arm["learned"]:
            blocks.append(Absent(what=f"{arm['name']}:", why="no phrase became clearly more frequent."))
        else:
            blocks.append(Card(anchor=f"learned-{arm['name']}", heading=arm["name"], tables=[_phrases(arm["learned"])]))
    return Section(anchor="learned", title="What the policy learned to say", lede=lede, blocks=blocks)


def _phrases(learned: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            p["text"],
            f"{p['first']:,} of {p['first_n']:,}",
            f"{p['last']:,} of {p['last_n']:,}",
            signed(p["log_odds"]),
            estimate_text(p["proxy"]),
            estimate_text(p["gold"]),
            _bought(p),
        ]
        for p in learned
    ]
    return Table(
        columns=["Phrase", "Replies at first", "Replies at last", "Log-odds", "Proxy", "Gold", "What it bought"], rows=rows, words=(6,)
    )


def _bought(phrase: Mapping[str, Any]) -> str:
    """In words, only where the intervals exclude 0."""
    signs = [
        (0 if e["low"] is None or e["low"] <= 0 <= e["high"] else 1 if e["low"] > 0 else -1) for e in (phrase["proxy"], phrase["gold"])
    ]
    words = {
        (1, -1): "reward, at gold's cost",
        (1, 1): "reward and gold",
        (1, 0): "reward only",
        (-1, 1): "gold, against the reward",
        (0, 1): "gold only",
        (0, -1): "cost gold",
        (-1, -1): "cost both",
        (-1, 0): "cost reward",
    }
    return words.get((signs[0], signs[1]), "nothing shown")


def browser(table: SampleTable, data: Mapping[str, Any]) -> Samples:
    """The table of replies."""
    shown = len(table.rows)
    summary = (
        f"{shown:,} of {plural(table.total, 'reply')}"
        + (f", {table.rule}." if shown < table.total else ", all of them.")
        + " Gap: proxy minus gold, both standardised; the top of the list is what the reward model overrates."
    )
    has_gold = any(r["gold"] is not None for r in table.rows)
    orders = [("gap down", "reward model overrates most"), ("gap up", "reward model underrates most")] if has_gold else []
    orders += [("proxy down", "proxy, highest first"), ("proxy up", "proxy, lowest first")]
    orders += [("gold down", "gold, highest first"), ("gold up", "gold, lowest first")] if has_gold else []
    orders += [("kl down", "KL, highest first"), ("step up", "step, first to last")]
    return Samples(
        summary=summary,
        rows=table.rows,
        arms=list(dict.fromkeys([*(a["name"] for a in data["arms"]), *(r["arm"] for r in table.rows)])),
        steps=sorted({r["step"] for r in table.rows if r["step"] is not None}),
        orders=orders,
    )


def facts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What made the run."""
    run = data["run"]
    labels = {
        "trueup": "trueup",
        "commit": "Commit",
        "changed": "Files changed since",
        "seed": "Seed",
        "config_digest": "Configuration digest",
        "data_digest": "Data digest",
        "device": "Device",
        "threads": "Threads",
        "python": "Python",
        "platform": "Platform",
        "cores": "Cores",
        "started": "Started",
    }
    found = [(label, _fact(run[key])) for key, label in labels.items() if run.get(key) is not None]
    if run.get("wall_s") is not None:
        found.append(("Wall time", duration(run["wall_s"])))
    if run.get("versions"):
        found.append(("Versions", ", ".join(f"{k} {v}" for k, v in run["versions"].items())))
    return found or [("Manifest", "absent")]


def _fact(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
