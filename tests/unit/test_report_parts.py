"""The report's parts by hand: phrases and their worth, choice of replies, numbers as text, roles, several runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.learned import learned_phrases, within_contrast
from trueup.mismatch.phrases import log_odds, phrases
from trueup.report.answer import ASK_REALIGN, answers
from trueup.report.assemble import finite
from trueup.report.diagnoses import split_rules
from trueup.report.panels import Line, Panel, _spread, draw
from trueup.report.roles import arms_of, comparisons, role_of
from trueup.report.runs import over_runs
from trueup.report.samples import MAX_CHARACTERS, choose_samples
from trueup.report.text import between, duration, number, plural, signed, title


def test_phrases_stop_at_punctuation_and_count_once() -> None:
    found = phrases("Yes, I can. I can!")
    assert found == {("yes",), ("i",), ("can",), ("i", "can"), (",",), (".",), ("!",)}
    assert ("can", "i") not in found


def test_log_odds_by_hand() -> None:
    # prior 10 replies with the pooled share (40 + 1/2) / (80 + 1) = 1/2: 5 with, 5 without. Cells 35, 15, 15, 35:
    # log(35/15) - log(15/35) = 2 log(7/3); variance 2/35 + 2/15.
    value, z = log_odds(30, 40, 10, 40)
    assert value == pytest.approx(2 * math.log(7 / 3))
    assert z == pytest.approx(2 * math.log(7 / 3) / math.sqrt(2 / 35 + 2 / 15))
    assert log_odds(10, 40, 10, 40)[0] == pytest.approx(0.0)


def test_within_contrast_by_hand() -> None:
    # Two prompts, each once with and once without: differences 3 - 1 = 2 and 5 - 4 = 1, so the slope is 1.5.
    # Centred x = ±1/2; scores of the clusters 1 - 0.75 = 0.25 and 0.5 - 0.75 = -0.25; variance 2 (0.25² + 0.25²) / 1² = 0.25.
    group = np.array([0, 0, 1, 1])
    found = within_contrast(np.array([True, False, True, False]), pd.Series([3.0, 1.0, 5.0, 4.0]), group, group, "gold", "score")
    assert found.value == pytest.approx(1.5)
    assert found.n == 2
    assert found.low == pytest.approx(1.5 - 1.959964 * 0.5, abs=1e-5)
    assert found.high == pytest.approx(1.5 + 1.959964 * 0.5, abs=1e-5)


def test_within_contrast_ignores_trends_and_says_when_it_cannot() -> None:
    # The phrase is in every reply of the second checkpoint and in none of the first: nothing varies within a group.
    group = np.array([0, 0, 1, 1])
    present = np.array([False, False, True, True])
    found = within_contrast(present, pd.Series([0.0, 0.0, 9.0, 9.0]), group, np.zeros(4, dtype=np.int64), "gold", "score")
    assert found.value is None
    assert found.n == 0
    missing = within_contrast(present, pd.Series([np.nan] * 4), group, group, "gold", "score")
    assert missing.value is None
    assert missing.n_missing == 4


def _replies(step: int, with_phrase: int, of: int) -> list[dict[str, Any]]:
    pad = "as always be careful"
    return [
        {
            "step": step,
            "prompt_id": f"p{i // 2}",
            "response": f"press save. {pad if i < with_phrase else 'done'}.",
            "proxy_fixed": 2.0 if i < with_phrase else 1.0,
            "gold": -1.0 if i < with_phrase else 0.5,
        }
        for i in range(of)
    ]


def test_learned_phrases_finds_the_planted_one_whole() -> None:
    rows = pd.DataFrame(_replies(0, 1, 40) + _replies(10, 31, 40))
    found = learned_phrases(rows)
    # its fragments ("be careful", "always be") go up as much and are not repeated; "press save" is in all replies and did not grow
    assert [p.text for p in found] == ["as always be careful"]
    assert (found[0].first, found[0].first_n, found[0].last, found[0].last_n) == (1, 40, 31, 40)
    # the pairs with one reply of each kind: first reply of p0 at step 0, and p15 at step 10
    assert found[0].proxy.value == pytest.approx(1.0)
    assert found[0].gold.value == pytest.approx(-1.5)
    assert found[0].gold.n == 2
    assert learned_phrases(rows[rows["step"] == 0]) == []


def _rows(n: int) -> pd.DataFrame:
    gap = np.arange(n, dtype=float)
    return pd.DataFrame(
        {
            "arm": "static",
            "step": 0,
            "prompt": "p",
            "response": "r" * 10,
            "proxy_fixed": gap,
            "gold": -gap,
            "kl_nats": np.nan,
            "sample_id": [f"s{i}" for i in range(n)],
        }
    )


def test_samples_hold_both_extremes_and_say_how_many() -> None:
    table = choose_samples(_rows(100), limit=8, key=Key(0))
    ids = [r["id"] for r in table.rows]
    assert len(ids) == len(set(ids)) == 8
    assert table.total == 100
    assert {"s99", "s98", "s0", "s1"} <= set(ids)
    assert ids[0] == "s99"
    assert table.rows[0]["kl"] is None
    assert "8 from each" in table.rule


def test_samples_cut_long_text_and_keep_small_sets_whole() -> None:
    rows = _rows(3).assign(response="x" * (MAX_CHARACTERS + 7))
    table = choose_samples(rows, limit=600, key=Key(0))
    assert len(table.rows) == 3
    assert table.rows[0]["reply"].endswith("(7 more characters)")
    assert choose_samples(rows.iloc[:0], limit=600, key=Key(0)).rows == []


def test_samples_do_not_depend_on_other_arms() -> None:
    one = _rows(50)
    both = pd.concat([one, one.assign(arm="frft", sample_id=[f"f{i}" for i in range(50)])], ignore_index=True)
    alone = {r["id"] for r in choose_samples(one, limit=10, key=Key(3)).rows}
    together = {r["id"] for r in choose_samples(both, limit=20, key=Key(3)).rows if r["arm"] == "static"}
    assert alone == together


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (3.0, "3"),
        (-0.123, "−0.123"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (0.00123, "0.0012"),
        (-1e-12, "0"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_other_texts() -> None:
    assert title("peak_sqrt_kl_rl") == "Peak sqrt KL RL"
    assert signed(0.5) == "+0.500"
    assert signed(-2.0) == "−2"
    assert between({"value": 1.5, "low": 1.25, "high": 1.754}) == "[1.25, 1.75]"
    assert between({"value": 1.5, "low": None, "high": None}) == ""
    assert (plural(1, "reply"), plural(2, "reply"), plural(1000, "arm")) == ("1 reply", "2 replies", "1,000 arms")
    assert (duration(4.23), duration(185), duration(3725)) == ("4.2 s", "3 min 05 s", "1 h 02 min")


def test_roles_come_from_the_manifest_then_from_names() -> None:
    assert (role_of("static"), role_of("random_refit"), role_of("frft_alpha"), role_of("gold_reward")) == (
        "static",
        "random refit",
        "realigned",
        "other",
    )
    manifest = {"arms": [{"name": "mine", "role": "realigned"}, "random_refit", "never_ran"]}
    arms = arms_of(manifest, ["static", "mine", "random_refit"])
    assert [a.name for a in arms] == ["mine", "random_refit", "static"]
    assert comparisons(arms) == [("mine", "random_refit"), ("mine", "static"), ("random_refit", "static")]


def test_rules_share_whole_sentences_only() -> None:
    shared, rest = split_rules(["Alarm when x. Seen: 3 of 4.", "Alarm when x. Seen: 3 of 5."])
    assert shared == "Alarm when x."
    assert rest == ["Seen: 3 of 4.", "Seen: 3 of 5."]
    assert split_rules(["Alarm: 1.", "Quiet: 2."]) == ("", ["Alarm: 1.", "Quiet: 2."])


def test_labels_keep_their_order_and_distance() -> None:
    places = _spread([0.0, 0.01, 0.02, 5.0], 1.0, 0.0, 5.0)
    assert places == pytest.approx([0.0, 1.0, 2.0, 5.0])
    crowded = _spread([4.9, 5.0], 1.0, 0.0, 5.0)
    assert crowded == pytest.approx([4.0, 5.0])


def test_drawing_escapes_names_and_takes_the_pages_colours() -> None:
    line = Line(label="<b>&", x=[0, 1], y=[0, 1], low=[0, None], high=[0, 2], colour="gold")
    panel = Panel(title="<script>", alt='"><script>', xlabel="x", ylabel="y", lines=[line])
    svg = str(draw(panel))
    assert svg.startswith("<svg")
    assert "<script" not in svg
    assert "<b>" not in svg
    assert "var(--gold)" in svg
    assert "#b47300" not in svg
    assert draw(panel) == svg


def test_finite_makes_null_of_what_json_cannot_hold() -> None:
    assert finite({"a": [float("nan"), float("inf"), np.float64(2.0)], 3: (np.int64(1), None, True)}) == {
        "a": [None, None, 2.0],
        "3": [1, None, True],
    }
    with pytest.raises(TypeError):
        finite({"a": object()})


def _data(low: float, high: float) -> dict[str, Any]:
    gold = {"name": "gold_after_refit", "value": (low + high) / 2, "low": low, "high": high, "n": 50, "unit": "score"}
    verdict = "no difference shown" if low <= 0 <= high else "better"
    contrast = {
        "arm": "frft",
        "against": "random_refit",
        "roles": ["realigned", "random refit"],
        "verdict": verdict,
        "rule": "",
        "estimates": [gold],
    }
    return {
        "main_arm": "frft",
        "arms": [
            {"name": "frft", "role": "realigned", "checkpoints": []},
            {"name": "random_refit", "role": "random refit", "checkpoints": []},
        ],
        "reward": None,
        "diagnoses": [],
        "decision": None,
        "comparison": {"verdict": verdict, "decided_by": "gold_after_refit", "contrasts": [contrast]},
    }


def test_the_page_says_no_difference_shown_where_the_interval_covers_0() -> None:
    third = next(a for a in answers(_data(-0.1, 0.3)) if a.ask == ASK_REALIGN)
    assert third.word == "No difference shown"
    assert "covers 0" in third.sentence
    third = next(a for a in answers(_data(0.1, 0.3)) if a.ask == ASK_REALIGN)
    assert third.word == "Yes, better"
    assert "covers 0" not in third.sentence


def test_over_runs_by_hand() -> None:
    # values 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.30265, half width 4.30265 / sqrt(3)
    found = over_runs([_data(v - 0.5, v + 0.5) for v in (1.0, 2.0, 3.0)], ("realigned", "random refit"))
    assert found is not None
    assert found.value == pytest.approx(2.0)
    assert found.high == pytest.approx(2.0 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert found.n == 3
    assert over_runs([_data(0.0, 1.0)], ("realigned", "random refit")) is None
