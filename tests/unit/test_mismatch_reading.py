"""How records are read: what is absent stays absent, and order, labels and reward models are found as written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.planted.worlds import Plant, frame
from trueup.core.rng import Key
from trueup.mismatch import pairs as p
from trueup.mismatch.diagnosis import Diagnosis
from trueup.mismatch.panel import panel_of
from trueup.mismatch.reward_policy import distribution_shift
from trueup.mismatch.series import checkpoint_table
from trueup.mismatch.verdict import DIAGNOSES, diagnose_all

NAMES = [m.NAME for m in DIAGNOSES]
SMALL = Plant(prompts=30, samples=2, checkpoints=5)


def rows(**columns: list) -> pd.DataFrame:
    """Four replies: prompts a and b at steps 0 and 5."""
    base = {
        "arm": ["x"] * 4,
        "step": [0.0, 0.0, 5.0, 5.0],
        "split": ["test"] * 4,
        "prompt_id": ["a", "b", "a", "b"],
        "sample_id": ["s0", "s1", "s2", "s3"],
        "response": ["one two", "one", "one two three", "one"],
    }
    return pd.DataFrame({**base, **columns})


def test_absent_columns_are_none_and_values_are_means() -> None:
    # gold at step 0: (1 + 3)/2; the evaluation applies to a alone, and to nothing at step 5
    table = checkpoint_table(rows(gold=[1.0, 3.0, 2.0, None], **{"evaluations.quiz": [0.5, None, None, None]}), "x", Key(0))
    assert [r.step for r in table] == [0, 5]
    first, second = table
    assert first.gold is not None
    assert (first.gold.value, first.gold.n, first.gold.n_missing) == (2.0, 2, 0)
    assert second.gold is not None
    assert (second.gold.value, second.gold.n, second.gold.n_missing, second.gold.low) == (2.0, 1, 1, None)
    assert first.proxy_fixed is None
    assert first.kl_nats is None
    assert first.to_dict()["proxy_current"] is None
    assert list(first.evaluations) == ["quiz"]
    assert second.evaluations == {}


def test_columns_of_none_are_absent() -> None:
    table = checkpoint_table(rows(gold=[None] * 4, finished=[True, False, None, None]), "x", Key(0))
    assert table[0].gold is None
    assert table[0].finished is not None
    assert table[0].finished.value == 0.5
    assert table[1].finished is None


def test_kl_is_exact_where_recorded_else_the_log_ratio() -> None:
    logs = {"logp_policy_nats": [-1.0, -2.0, -1.0, -1.0], "logp_ref_nats": [-2.0, -2.0, -4.0, -2.0]}
    ratio = checkpoint_table(rows(**logs), "x", Key(0))
    assert ratio[1].kl_nats is not None
    assert ratio[1].kl_nats.value == 2.0  # (3 + 1)/2
    exact = checkpoint_table(rows(**logs, kl_policy_ref_exact_nats=[0.0, 0.0, 1.0, 2.0]), "x", Key(0))
    assert exact[1].kl_nats is not None
    assert exact[1].kl_nats.value == 1.5


def test_no_arm_no_rows() -> None:
    assert checkpoint_table(rows(), "y", Key(0)) == []
    assert checkpoint_table(rows(split=["train"] * 4), "x", Key(0)) == []


def test_row_order_changes_nothing() -> None:
    records = frame(replace(SMALL, labelled=True), 0)
    mixed = records.iloc[Key(3).permutation(len(records))].reset_index(drop=True)
    one, two = (diagnose_all(r, ["static"], Key(1)) for r in (records, mixed))
    assert [d.to_dict() for d in one[0]] == [d.to_dict() for d in two[0]]
    assert one[1] == two[1]


def test_every_answer_is_plain_json_and_its_columns_have_one_length() -> None:
    both = pd.concat([frame(SMALL, 0, "static"), frame(replace(SMALL, refit_at=2), 0, "frft")]).drop_duplicates("sample_id")
    found, decisions = diagnose_all(both, ["static", "frft"], Key(1))
    assert [(d.arm, d.name) for d in found] == [(a, n) for a in ("static", "frft") for n in NAMES] + [("frft", "realignment")]
    for d in found:
        assert len({len(column) for column in d.series.values()}) <= 1, d.name
        json.dumps(d.to_dict(), allow_nan=False)
        assert d.rule
        assert d.verdict in ("alarm", "quiet", "no difference shown", "not enough data")
    for decision in decisions.values():
        json.dumps(decision.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("drop", "missing"),
    [
        (["gold"], {"over_optimisation": "gold", "distribution_shift": "no labels", "calibration": "no labels"}),
        (
            ["proxy_fixed", "proxy_current"],
            dict.fromkeys(["over_optimisation", "calibration", "length", "tracking", "distribution_shift"], ""),
        ),
    ],
)
def test_missing_columns_are_said(drop: list[str], missing: dict[str, str]) -> None:
    found, _ = diagnose_all(frame(SMALL, 0).drop(columns=drop), ["static"], Key(1))
    verdicts = {d.name: d for d in found}
    assert {name for name, d in verdicts.items() if d.verdict == "not enough data"} >= set(missing)
    for name, words in missing.items():
        assert words in verdicts[name].rule


def test_what_is_too_little() -> None:
    def verdicts(records: pd.DataFrame) -> dict[str, Diagnosis]:
        return {d.name: d for d in diagnose_all(records, ["static"], Key(1))[0]}

    one_sample = verdicts(frame(replace(SMALL, samples=1), 0))
    assert "one sample" in one_sample["distribution_shift"].rule
    assert one_sample["length"].verdict == "not enough data"
    records = frame(SMALL, 0)
    assert "offline" in verdicts(records[records["arm"] != "offline"])["distribution_shift"].rule
    two = verdicts(records[(records["arm"] == "offline") | (records["step"] <= 10)])
    assert two["over_optimisation"].verdict == "not enough data"
    assert "2 of 2" in two["over_optimisation"].rule
    nothing = verdicts(records[records["arm"] == "offline"])
    assert {d.verdict for d in nothing.values()} == {"not enough data"}


def offline(**columns: list) -> pd.DataFrame:
    base = {
        "arm": ["offline"] * 4,
        "step": [np.nan] * 4,
        "split": ["validation", "validation", "train", "train"],
        "prompt_id": ["q", "q", "r", "r"],
        "sample_id": ["o0", "o1", "o2", "o3"],
        "response": ["u"] * 4,
        "scores.rm-0": [2.0, 1.0, 0.0, 0.0],
        "scores.rm-1": [1.0, 2.0, 0.0, 0.0],
        "gold": [0.0, 1.0, 0.0, 0.0],
        "labels": [[{"annotator": "a", "other_sample_id": "o1", "preference": 1.0}]] + [[]] * 3,
    }
    return pd.DataFrame({**base, **columns})


def test_offline_pairs_are_held_out_and_judged_by_labels_or_gold() -> None:
    found = p.offline_pairs(offline())
    assert found is not None
    assert len(found) == 1
    assert found.outcome("labels").tolist() == [1.0]
    assert found.outcome("gold").tolist() == [0.0]
    assert p.correct(found.difference(found.column("scores.rm-0")), found.outcome("labels")).tolist() == [1.0]


def test_a_label_written_on_both_replies_counts_once_per_annotator() -> None:
    # annotator a says 1 on both sides; b says 0: the mean preference is 1/2, a tie, which has no right answer
    def label(annotator: str, other: str, preference: float) -> dict[str, object]:
        return {"annotator": annotator, "other_sample_id": other, "preference": preference}

    labels = [[label("a", "o1", 1.0), label("b", "o1", 0.0)], [label("a", "o0", 0.0)], [], None]
    found = p.offline_pairs(offline(labels=labels))
    assert found is not None
    assert found.preference.tolist() == [0.5]
    assert np.isnan(found.outcome("labels")).all()


def test_ties_of_the_score_count_half() -> None:
    assert p.correct(np.array([2.0, -1.0, 0.0, 3.0]), np.array([1.0, 1.0, 0.0, np.nan]))[:3].tolist() == [1.0, 0.0, 0.5]


def test_pairs_of_a_prompt() -> None:
    records = pd.concat([rows(step=[0, 0, 0, 0], prompt_id=["a", "a", "a", "b"], gold=[1.0, 2.0, 2.0, 0.0])])
    panel = panel_of(records, "x")
    assert panel is not None
    every = p.policy_pairs(panel)
    assert every is not None
    apart = p.disjoint(every)
    assert sorted(zip(every.first.tolist(), every.second.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert every.outcome("gold")[[0, 2]].tolist() == [0.0, 0.0]
    assert np.isnan(every.outcome("gold")[1])  # 1 and 2 tie: positions (0,1), (1,2), (0,2)
    assert (apart.first.tolist(), apart.second.tolist()) == ([0], [1])


def test_both_kinds_of_pair_need_one_truth() -> None:
    panel = panel_of(rows(step=[0] * 4, prompt_id=["a", "a", "b", "b"], gold=[1.0, 2.0, 0.0, 1.0]), "x")
    assert panel is not None
    policy, own = p.policy_pairs(panel), p.offline_pairs(offline())
    assert policy is not None
    assert own is not None
    assert p.common_truth(own, policy, "auto") == "gold"  # nobody labelled the policy's pairs
    assert p.common_truth(own, policy, "labels") is None
    bare = p.offline_pairs(offline(gold=[np.nan] * 4))
    assert bare is not None
    assert p.common_truth(bare, policy, "auto") is None


def test_the_reward_model_in_force_is_found_by_its_scores() -> None:
    # proxy_current is 3 times rm-1 minus 2 at step 5, rm-0 at step 0
    rm0, rm1 = [0.3, 1.0, 0.7, 2.0], [0.9, 0.1, 0.4, 0.5]
    records = rows(step=[0] * 4, **{"scores.rm-0": rm0, "scores.rm-1": rm1, "proxy_fixed": rm0, "proxy_current": [3 * v - 2 for v in rm1]})
    panel, own = panel_of(records, "x"), p.offline_pairs(offline())
    assert panel is not None
    assert own is not None
    scorer = p.scorer_of(panel, "proxy_current", 0, own)
    assert scorer is not None
    assert scorer.column == "scores.rm-1"
    assert scorer.raw
    assert (scorer.gain, scorer.shift) == pytest.approx((3, -2))
    first = p.scorer_of(panel, "proxy_fixed", 0, own)
    assert first is not None
    assert first.column == "scores.rm-0"
    unknown = p.offline_pairs(offline().drop(columns="scores.rm-1"))
    assert unknown is not None
    assert p.scorer_of(panel, "proxy_current", 0, unknown) is None


def test_labels_between_checkpoints_become_wins_over_the_first() -> None:
    # s2 beats s0 (written on s2), s3 loses to s1 (written on s1)
    def label(other: str, preference: float) -> list[dict[str, object]]:
        return [{"annotator": "a", "other_sample_id": other, "preference": preference}]

    panel = panel_of(rows(labels=[[], label("s3", 1.0), label("s0", 1.0), []]), "x")
    assert panel is not None
    wins = p.wins_over_first(panel)
    assert wins is not None
    assert wins.tolist() == [0.5, 0.5, 1.0, 0.0]


def test_disjoint_pairs_skip_used_replies() -> None:
    # of three samples with pairs (0,1) (1,2) (0,2) only the first remains
    panel = panel_of(rows(step=[0] * 4, prompt_id=["a", "a", "a", "a"]), "x")
    assert panel is not None
    every = p.policy_pairs(panel)
    assert every is not None
    assert len(every) == 6
    apart = p.disjoint(every)
    used = [*apart.first.tolist(), *apart.second.tolist()]
    assert sorted(used) == [0, 1, 2, 3]


def test_a_score_that_is_gold_has_no_taste_for_length() -> None:
    records = frame(replace(SMALL, gold_likes_length=1.0), 0)
    records["proxy_fixed"] = records["proxy_current"] = records["gold"] * 2 + 1
    found = next(d for d in diagnose_all(records, ["static"], Key(1))[0] if d.name == "length")
    assert found.estimate("correlation").value == pytest.approx(found.estimate("correlation_gold").value)
    assert found.estimate("correlation").excludes(0)
    assert found.estimate("partial_correlation_given_gold").value == 0
    assert found.verdict == "quiet"


def test_a_refit_without_offline_scores_is_judged_by_the_first_reward_model() -> None:
    # from step 20 the model in force is another score (minus the first), which the offline rows do not hold
    records = frame(replace(SMALL, samples=4), 0)
    late = (records["arm"] == "static") & (records["step"] >= 20)
    records.loc[late, "proxy_current"] = -records.loc[late, "proxy_fixed"]
    found = {d.name: d for d in diagnose_all(records, ["static"], Key(1))[0]}
    shift = found["distribution_shift"]
    assert "proxy_fixed" in shift.rule
    assert shift.series["offline_current"][0] is not None
    assert shift.series["offline_current"][-1] is None
    assert "accuracy_policy_current" not in {e.name for e in shift.estimates}
    assert "proxy_fixed" in found["calibration"].rule


def test_gold_gaps_are_matched_in_strata_that_hold_enough() -> None:
    # policy gaps 0.5 and 1.5 alike; offline right at a gap of 1.5, wrong half of the time at .5, and many at 9 that nobody reaches:
    # matched offline accuracy is (1 + .5)/2 = .75 against the policy's 1
    settings = distribution_shift.DistributionShift(strata=2, pairs_per_stratum=5, min_pairs=5)

    def replies(arm: str, split: str, step: float, gaps: list[float], hits: list[bool]) -> pd.DataFrame:
        n = len(gaps)
        score = [v for hit in hits for v in ((1.0, 0.0) if hit else (0.0, 1.0))]
        return pd.DataFrame(
            {
                "arm": arm,
                "split": split,
                "step": step,
                "prompt_id": [f"{arm}{i // 2:03d}" for i in range(2 * n)],
                "sample_id": [f"{arm}{i:03d}" for i in range(2 * n)],
                "response": "a",
                "gold": [v for gap in gaps for v in (gap, 0.0)],
                "proxy_fixed": score,
            }
        )

    policy = replies("x", "test", 0.0, [0.5, 1.5] * 20, [True] * 40)
    own = replies("offline", "validation", np.nan, [0.5] * 20 + [1.5] * 10 + [9.0] * 50, [True, False] * 10 + [True] * 60)
    found = distribution_shift.diagnose(pd.concat([policy, own], ignore_index=True), "x", settings, Key(0))
    assert found.estimate("drop_fixed").value == pytest.approx(70 / 80 - 1)
    assert found.estimate("drop_fixed_equal_gap").value == pytest.approx(0.75 - 1)
