"""A whole report from a run folder: valid JSON, a safe page, honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.report.runs import write_reports
from trueup.report.write import write_report

from .report_run import ARMS, HOSTILE, check, make_run, page, pages, schema

NUMBERS = ("promise_kept", "signal_used", "moved_along")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_run(tmp_path_factory.mktemp("runs") / "whole")
    write_report(root, key=Key(0))
    return root


class Tags(HTMLParser):
    """Start tags of a page with their attributes, and the texts of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._open = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts[-1] += data


def test_json_holds_the_interface(whole: Path) -> None:
    data = check(whole)
    assert [a["name"] for a in data["arms"]] == list(ARMS)
    for arm in data["arms"]:
        assert [c["step"] for c in arm["checkpoints"]] == [0, 10, 20, 30]
        for c in arm["checkpoints"]:
            for column in ("kl_nats", "proxy_fixed", "proxy_current", "gold"):
                assert c[column]["low"] <= c[column]["value"] <= c[column]["high"]
                assert c[column]["n"] == 12
            assert set(c["evaluations"]) == {"hedging"}
    assert {d["name"] for d in data["diagnoses"]} >= {
        "over_optimisation",
        "distribution_shift",
        "calibration",
        "length",
        "tracking",
        "realignment",
    }
    assert {"keep_step", "stop", "why"} <= set(data["decision"])
    assert data["decision"]["arm"] == data["main_arm"] == "static"
    assert [(c["arm"], c["against"]) for c in data["comparison"]["contrasts"]] == [
        ("frft", "random_refit"), ("frft", "static"), ("random_refit", "static"),
    ]  # fmt: skip
    assert data["comparison"]["verdict"] == data["comparison"]["contrasts"][0]["verdict"]


def test_json_agrees_with_the_records(whole: Path) -> None:
    from trueup.store.records import frame

    rows = frame(whole)
    here = rows[(rows["arm"] == "frft") & (rows["step"] == 20)]
    told = next(c for a in check(whole)["arms"] if a["name"] == "frft" for c in a["checkpoints"] if c["step"] == 20)
    # every prompt has four replies, so the mean over prompts is the mean over rows
    assert told["gold"]["value"] == pytest.approx(here["gold"].mean())
    assert told["proxy_fixed"]["value"] == pytest.approx(here["proxy_fixed"].mean())


@pytest.mark.parametrize(
    "break_it",
    [
        lambda d: d["arms"][0]["checkpoints"][0]["gold"].pop("low"),
        lambda d: d["arms"][0]["checkpoints"][0]["gold"].update(value="1.0"),
        lambda d: d["decision"].pop("why"),
        lambda d: d["diagnoses"][0].update(verdict="fine"),
        lambda d: d.pop("comparison"),
    ],
)
def test_schema_refuses_broken_documents(whole: Path, break_it: Any) -> None:
    data = check(whole)
    break_it(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(data)


def test_schema_describes_every_top_field() -> None:
    properties = schema()["properties"]
    assert all("description" in p or "$ref" in p or p.get("properties") or p.get("items") for p in properties.values())
    documented = (Path(__file__).parents[2] / "docs/report.md").read_text(encoding="utf-8")
    assert [name for name in properties if f"`{name}" not in documented] == []


def test_hostile_text_stays_text(whole: Path) -> None:
    for name, html in pages(whole).items():
        found = Tags(html)
        assert "<script>alert" not in html
        assert [t for t, a in found.tags if any(k.startswith("on") for k in a)] == []
        assert [t for t, _ in found.tags if t in ("img", "iframe", "object", "link", "base", "form")] == []
        expected = ["application/json", None] if name == "replies.html" else []
        assert [a.get("type") for t, a in found.tags if t == "script"] == expected
    replies = json.loads(Tags(page(whole, "replies.html")).scripts[0])
    assert any(HOSTILE in r["prompt"] for r in replies)
    markdown = (whole / "report/report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown.replace("\\<script\\>", "")


def test_page_runs_only_its_own_script_and_asks_nobody(whole: Path) -> None:
    found = Tags(page(whole, "replies.html"))
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    for html in pages(whole).values():
        assert [a for t, a in Tags(html).tags if a.get("src")] == []
        assert "url(http" not in html


def test_every_link_leads_to_a_place_of_the_report(whole: Path) -> None:
    tags = {name: Tags(html).tags for name, html in pages(whole).items()}
    ids = {name: [a["id"] for _, a in found if a.get("id")] for name, found in tags.items()}
    assert all(len(found) == len(set(found)) for found in ids.values())
    replies = json.loads(Tags(page(whole, "replies.html")).scripts[0])
    ids["replies.html"] += [f"reply-{i}" for i in range(len(replies))]  # the script draws those beyond the first twenty
    for name, found in tags.items():
        for target in (a["href"] for _, a in found if a.get("href")):
            file, _, anchor = (target or "").partition("#")
            assert (file or name) in ids, target
            assert not anchor or anchor in ids[file or name], target


def test_pages_show_answers_numbers_verdicts_and_figures(whole: Path) -> None:
    shown, data = pages(whole), check(whole)
    assert list(shown) == ["index.html", "policy-evaluation.html", "replies.html", "reward-evaluation.html", "reward-policy.html"]
    files = {
        "reward_policy": "reward-policy.html",
        "reward_evaluation": "reward-evaluation.html",
        "policy_evaluation": "policy-evaluation.html",
    }
    for d in data["diagnoses"]:
        if d["name"] != "realignment":
            for name in ("index.html", files[d["link"]]):
                assert d["question"].split("?")[0][:40] in shown[name].replace("&#39;", "'")
            assert f'href="{files[d["link"]]}#diagnosis-{d["name"]}"' in shown["index.html"]
    assert sum(html.count("<svg") for html in shown.values()) >= 10
    assert shown["index.html"].count("<svg") == 3  # one figure, a panel an arm
    assert f"Step {data['decision']['keep_step']}" in shown["index.html"]
    assert "576 replies" in shown["index.html"]  # 3 arms x 4 checkpoints x 12 prompts x 4
    assert "thank you so much" in shown["reward-policy.html"]
    for number in ("promise_kept", "signal_used", "moved_along"):
        assert all(
            number in shown[name] for name in ("index.html", next(f for f, n in zip(files.values(), NUMBERS, strict=True) if n == number))
        )


def test_numbers_of_the_links(whole: Path) -> None:
    data = check(whole)
    assert set(data["headlines"]) == set(ARMS)
    for of in data["headlines"].values():
        assert [h["name"] for h in of] == list(NUMBERS)
        # the proxy has no tie to gold within prompts, so nothing was promised, and a chance order is 0 up to noise
        assert of[0]["basis"] is None
        assert "not shown to rise with the proxy" in of[0]["why"]
        assert (of[1]["basis"], of[1]["estimate"]["value"] < 0.35) == ("gold", True)
    # hedging only grows, and lower is better
    static = data["headlines"]["static"][2]
    assert (static["basis"], static["estimate"]["value"], static["over"]) == ("evaluations", 0.0, ["hedging"])


def test_a_verdict_leads_to_its_replies(whole: Path) -> None:
    data, html = check(whole), page(whole, "reward-policy.html")
    replies = json.loads(Tags(page(whole, "replies.html")).scripts[0])
    found = next(d for d in data["diagnoses"] if d["name"] == "over_optimisation" and d["arm"] == "static")
    place = {r["id"]: i for i, r in enumerate(replies)}
    assert found["samples"]
    for sample in found["samples"]:
        assert f'href="replies.html#reply-{place[sample]}"' in html


def test_the_same_key_gives_the_same_bytes(whole: Path) -> None:
    before = [(whole / "report" / n).read_bytes() for n in ("index.html", "report.json", "report.md")]
    paths = write_report(whole, key=Key(0))
    assert [p.read_bytes() for p in (paths.html, paths.json, paths.markdown)] == before
    assert sorted(p.name for p in paths.html.parent.iterdir()) == [
        "index.html", "policy-evaluation.html", "replies.html", "report.json", "report.md", "reward-evaluation.html", "reward-policy.html",
    ]  # fmt: skip


def test_another_key_resamples(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", arms=("static",), steps=2, prompts=10)
    first, second = (write_report(root, key=Key(k)).json.read_bytes() for k in (0, 1))
    assert first != second


def test_several_runs_take_the_run_as_the_unit(tmp_path: Path) -> None:
    roots = [make_run(tmp_path / f"s{s}", steps=3, prompts=10, seed=s) for s in (0, 1)]
    paths = write_reports(roots, tmp_path / "both", key=Key(0))
    together = json.loads(paths.json.read_text(encoding="utf-8"))
    single = [check(r)["comparison"] for r in roots]
    values = [next(e["value"] for e in c["contrasts"][0]["estimates"] if e["name"] == c["decided_by"]) for c in single]
    found = next(e for e in together["over_runs"] if e["name"] == "realigned - random refit")
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["n"] == 2
    html = paths.html.read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "over 2 runs" in html
    with pytest.raises(UserError, match="two or more different"):
        write_reports([roots[0], roots[0]], tmp_path / "same", key=Key(0))


def test_the_report_needs_no_torch() -> None:
    heavy = ("torch", "transformers", "matplotlib")
    code = f"import sys, trueup.report.write, trueup.report.runs; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
