"""Rewards as configurations: every kind survives YAML, builds what it says, and refuses what it cannot be."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests_support import tiny_policy, tiny_reward
from trueup.core.config import load_config, validate
from trueup.core.errors import UserError
from trueup.data.principles import with_principles
from trueup.data.rows import Conversation, Reply
from trueup.data.segments import Category
from trueup.models.reward import RewardModel
from trueup.pipeline.config import RunConfig
from trueup.rewards.config import RewardConfig, Uncertain, every, kinds_of_rewards
from trueup.rewards.confined import unavailable
from trueup.rewards.dense_reward import SegmentReward
from trueup.rewards.learned import LearnedReward, Scale
from trueup.rewards.programmed import ProgrammedReward
from trueup.rewards.protocol import DenseReward, Reward
from trueup.rewards.verifiable import unit_tests

PLEASE = {"name": "please", "expression": "please"}
EXAMPLES: dict[str, dict[str, Any]] = {
    "dense": {"path": "judge"},
    "principles": {"principles": ["Be brief."]},
    "learned": {},
    "clean": {},
    "gold": {},
    "ensemble": {"members": 3, "differ": "pretraining", "trunks": ["a", "b"], "rule": "uwo", "coefficient": 0.25},
    "shared_trunk": {"members": 3, "seen_share": 0.5, "rule": "min"},
    "average": {"members": 2, "differ": "head"},
    "last_layer": {"deviations": 2.0, "features": "reply", "references": 1},
    "sum": {"parts": [{"weight": -0.5, "reward": "learned"}, {"reward": {"kind": "clip", "reward": "gold", "low": 0}}]},
    "product": {
        "parts": [{"weight": 2, "reward": {"kind": "sigmoid", "references": 2}}, {"reward": {"kind": "pattern", "expression": "a"}}]
    },
    "rules": {"rules": [PLEASE, {**PLEASE, "name": "rude", "wanted": False, "weight": -1}]},
    "clip": {"reward": {"kind": "length_penalty"}, "low": -1, "high": 2},
    "sigmoid": {"reward": {"kind": "ensemble"}, "references": 3},
    "length_penalty": {"per_word": 0.5, "free_words": 2},
    "noisy": {"reward": {"kind": "gold"}, "low": -2, "high": 2, "granularity": 4, "skew": 0.5, "observed": 0.5, "noise_seed": 3},
    "exact_match": {"tag": "solution", "contained": True},
    "numeric_answer": {"tolerance": 0.1},
    "pattern": {"expression": "^a+$", "whole": True, "wanted": False},
    "unit_tests": {"jobs": 2, "cpu_s": 1},
}


def run_with(reward: Any, **more: Any) -> RunConfig:
    return validate({"world": "helpdesk", "arms": [{"name": "a", "reward": reward}], **more}, RunConfig, where="here")


def reward_of(kind: str, **values: Any) -> RewardConfig:
    return run_with({"kind": kind, **values}).arms[0].reward


def test_parts_of_a_sum_have_names() -> None:
    plain = {"kind": "pattern", "expression": "a"}
    config = reward_of("sum", parts=[{"reward": plain}, {"reward": "learned", "name": "quality"}, {"reward": plain}])
    assert config.names() == ["pattern_1", "quality", "pattern_2"]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="distinct names"):
        reward_of("sum", parts=[{"reward": plain, "name": "learned"}, {"reward": "learned"}])


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_every_kind_survives_yaml(kind: str, tmp_path: Path) -> None:
    config = run_with({"kind": kind, **EXAMPLES[kind]})
    assert config.arms[0].reward.kind == kind
    for name, value in EXAMPLES[kind].items():
        if not isinstance(value, list | dict):
            assert getattr(config.arms[0].reward, name) == value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(tmp_path / "config.yaml", RunConfig) == config


def test_every_kind_has_an_example() -> None:
    assert sorted(EXAMPLES) == list(kinds_of_rewards())


def test_what_a_reward_is_made_of() -> None:
    found = [part.kind for part in every(reward_of("sum", **EXAMPLES["sum"]))]
    assert found == ["sum", "learned", "clip", "gold"]
    assert reward_of("exact_match", tag="solution").tags() == ("solution",)
    assert reward_of("unit_tests").tags() == ("tests",)
    assert reward_of("pattern", expression="a").tags() == ()


@pytest.mark.parametrize(
    ("arm", "more", "said"),
    [
        ({"reward": "lerned"}, {}, "no reward 'lerned'. Did you mean 'learned'"),
        ({"reward": {"kind": "parts.nothing_here"}}, {}, "no module 'parts.nothing_here'"),
        ({"reward": {"rule": "min"}}, {}, "needs 'kind'"),
        ({"reward": {"kind": "ensemble", "members": 1}}, {}, "arms.0.reward.members"),
        ({"reward": {"kind": "ensemble", "members": 3, "differ": "pretraining", "trunks": ["a"]}}, {}, "3 members need 2 'trunks'"),
        ({"reward": {"kind": "ensemble", "trunks": ["a", "b", "c"]}}, {}, "belong to differ: pretraining"),
        ({"reward": {"kind": "ensemble", "differ": "adapter"}}, {}, "need reward.model.lora"),
        ({"reward": {"kind": "ensemble", "differ": "adaptor"}}, {}, "'head', 'order', 'adapter' or 'pretraining'"),
        ({"reward": {"kind": "clip", "low": 1, "high": 1}}, {}, "must be below high"),
        ({"reward": {"kind": "pattern", "expression": "("}}, {}, "is no regular expression"),
        ({"reward": {"kind": "rules", "rules": [PLEASE, PLEASE]}}, {}, "distinct names"),
        ({"reward": {"kind": "rules", "rules": []}}, {}, "at least 1 item"),
        ({"reward": {"kind": "sum", "parts": ["learned", "clean"]}}, {}, "parts.0"),
        ({"reward": {"kind": "sum", "parts": [{"reward": "learned"}, {"reward": "clean"}]}}, {}, "not both"),
        ({"reward": "numeric_answer", "realign": {}}, {}, "no part of this arm's reward"),
        ({"reward": {"kind": "ensemble"}, "realign": {}}, {}, "no part of this arm's reward"),
        ({"reward": "learned"}, {"reward": None}, "'reward' is null"),
        ({"optimizer": {"kind": "constrained", "thresholds": {"a": 0}}}, {}, "arm 'a', optimizer.thresholds: constraints are on the parts"),
        (
            {"optimizer": {"kind": "constrained", "thresholds": {"pleas": 0}}, "reward": {"kind": "rules", "rules": [PLEASE]}},
            {},
            "Did you mean 'please'",
        ),
        ({"optimizer": {"kind": "ppo", "critic": "reward"}, "reward": "gold"}, {}, "the reward 'gold' is none"),
        ({"reward": "gold", "realign": {}}, {"reward": None}, "'reward' is null"),
        ({"reward": "average"}, {"reward": {"train": False, "model": {"trunk": "path", "path": "x"}}}, "reward.train is false"),
        ({}, {"reward": {"train": False}}, "needs model: {trunk: path"),
        ({}, {"reward": {"model": {"trunk": "embeddings", "lora": {}}}}, "adapts a trunk"),
        ({}, {"reward": {"calibration": "temprature"}}, "reward.calibration"),
        (
            {},
            {
                "world": None,
                "policy": None,
                "cross_validate": {
                    "sets": [{"name": "s", "path": "x"}],
                    "models": [{"name": "m", "train": False, "model": {"trunk": "path", "path": "x"}}],
                },
            },
            "remove 'train: false'",
        ),
    ],
)
def test_what_is_refused(arm: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        validate({"world": "helpdesk", "arms": [{"name": "a", **arm}], **more}, RunConfig, where="here")
    assert said in str(error.value)
    assert ("Tuple should have" in str(error.value)) == (said == "at least 1 item")


def test_a_wrong_list_is_not_said_to_be_empty_beside_its_wrong_items() -> None:
    with pytest.raises(UserError) as error:
        validate({"world": "helpdesk", "arms": []}, RunConfig, where="here")
    assert "arms: Tuple should have at least 1 item" in str(error.value)
    with pytest.raises(UserError, match=r"1 wrong value:\n  arms.0.name"):
        validate({"world": "helpdesk", "arms": [{"name": "A b"}]}, RunConfig, where="here")


class Given:
    """Sources of fixed numbers: scores are the first number in a reply, gold is ten times that."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def build(self, config: RewardConfig) -> Reward:
        return config.build(self)

    def model(self) -> Reward:
        return ProgrammedReward(number)

    def gold(self) -> Reward:
        return ProgrammedReward(number, gain=10.0)

    def members(self, differ: str, count: int, trunks: Sequence[str] | None) -> list[LearnedReward]:
        self.asked.append((differ, count, trunks))
        return [LearnedReward(tiny_reward(i), Scale(gain=1.0 + i, shift=float(i))) for i in range(count)]

    def shared_trunk(self, count: int, seen_share: float) -> tuple[RewardModel, list[Scale]]:
        self.asked.append((count, seen_share))
        return tiny_reward(5, outputs=count), [Scale(gain=2.0)] * count

    def average(self, differ: str, count: int, trunks: Sequence[str] | None) -> Reward:
        self.asked.append((differ, count, trunks))
        return ProgrammedReward(number)

    def last_layer(self, features: str, references: int, deviations: float) -> Reward:
        self.asked.append((features, references, deviations))
        return ProgrammedReward(number)

    def dense(self, path: str) -> SegmentReward:
        self.asked.append(path)
        return SegmentReward(tiny_reward(outputs=1), [Category(name="whole", labels=("wrong",), unit="reply")], tiny_policy().tokenizer)

    def deviation(self, reward: Reward) -> float:
        return 4.0

    def known(self, tag: str) -> Mapping[str, str]:
        return {"answer": {"ask": "72", "tell": '["six", "6"]'}, "none": {"ask": "no number"}, "tests": {"ask": "assert f() == 1"}}[tag]

    def references(self, count: int) -> Mapping[str, Sequence[Reply]]:
        self.asked.append(count)
        return {"ask": [Reply(text="0"), Reply(text="1")]}


def number(prompts: object, replies: Sequence[Reply]) -> list[float]:
    return [float(r.text.split()[0]) for r in replies]


def scores(config: RewardConfig, *texts: str, prompt: Conversation = "ask") -> list[float]:
    return config.build(Given()).score([prompt] * len(texts), [Reply(text=t) for t in texts]).tolist()


def test_a_dense_reward_model_is_divided_by_its_deviation() -> None:
    sources = Given()
    reward = reward_of("dense", path="judge").build(sources)
    assert isinstance(reward, DenseReward)  # still given where it falls
    plain, replies = sources.dense("judge"), [Reply(text="good tell"), Reply(text="bad")]
    torch.testing.assert_close(reward.score(["ask"] * 2, replies), plain.score(["ask"] * 2, replies) / 4, rtol=0, atol=1e-6)
    assert sources.asked == ["judge", "judge"]


def test_principles_stand_behind_the_prompt() -> None:
    asked: list[Conversation] = []

    def note(prompts: Sequence[Conversation], replies: Sequence[Reply]) -> list[float]:
        asked.extend(prompts)
        return number(prompts, replies)

    class Noting(Given):
        def model(self) -> Reward:
            return ProgrammedReward(note)

    config = reward_of("principles", principles=["be brief"])
    assert config.build(Noting()).score(["ask"], [Reply(text="3")]).tolist() == [3.0]
    assert asked == [with_principles("ask", ["be brief"])]


def test_sums_products_and_shapes_by_hand() -> None:
    parts = [
        {"reward": "learned"},
        {"weight": 2, "reward": {"kind": "pattern", "expression": "please"}},
        {"weight": -0.5, "reward": "gold"},
    ]
    # 3 + 2 * 1 - 0.5 * 30 and 4 + 0 - 0.5 * 40
    assert scores(reward_of("sum", parts=parts), "3 please", "4") == [-10.0, -16.0]
    parts = [{"weight": 2, "reward": "learned"}, {"reward": {"kind": "pattern", "expression": "please"}}]
    assert scores(reward_of("product", parts=parts), "3 please", "4") == [9.0, 0.0]  # 3^2 * 1 and 4^2 * 0
    assert scores(reward_of("clip", low=-1, high=2), "-5", "1", "3") == [-1.0, 1.0, 2.0]
    # three words, one free, a tenth each
    assert scores(reward_of("length_penalty", per_word=0.1, free_words=1), "3 a b") == pytest.approx([2.8])
    # against replies of score 0 and 1: (sigmoid(2) + sigmoid(1)) / 2 = (0.880797 + 0.731059) / 2
    assert scores(reward_of("sigmoid"), "2") == pytest.approx([0.805928], abs=1e-5)
    rules = [
        PLEASE,
        {"name": "short", "expression": r"\w+ \w+", "whole": True, "weight": 0.5},
        {**PLEASE, "name": "rude", "wanted": False, "weight": -2},
    ]
    assert scores(reward_of("rules", rules=rules), "1 please", "please do so", "so long a reply") == [1.5, 1.0, -2.0]


def test_checks_take_answers_from_tags() -> None:
    assert scores(reward_of("numeric_answer"), "it is 72.0", "7 2", "none") == [1.0, 0.0, 0.0]
    assert scores(reward_of("exact_match"), "72 .", "72 or so") == [1.0, 0.0]
    assert scores(reward_of("exact_match", contained=True), "about 72 or so", "720") == [1.0, 0.0]
    assert scores(reward_of("exact_match"), "Six", "6", "72", prompt="tell") == [1.0, 1.0, 0.0]
    with pytest.raises(UserError, match="holds no number"):
        reward_of("numeric_answer", tag="none").build(Given())


@pytest.mark.skipif(unavailable() is not None, reason=f"no confinement: {unavailable()}")
def test_code_is_run_against_the_tests_of_a_prompt() -> None:
    assert scores(reward_of("unit_tests", jobs=2), "def f():\n    return 1", "def f():\n    return 2") == [1.0, 0.0]


def test_without_confinement_code_is_refused_before_it_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_tests, "unavailable", lambda: "it needs Linux")
    with pytest.raises(UserError, match=r"it needs Linux\. It is never run unconfined"):
        reward_of("unit_tests").build(Given())


def test_members_get_their_settings_and_the_rule_theirs() -> None:
    sources, replies = Given(), [Reply(text="good"), Reply(text="bad dull")]
    config = reward_of("ensemble", members=2, differ="order", rule="mean_std", coefficient=0.5)
    reward = config.build(sources)
    assert sources.asked == [("order", 2, None)]
    apart = torch.stack([(i + 1) * LearnedReward(tiny_reward(i)).raw(["ask"] * 2, replies) + i for i in range(2)])
    # mean - 0.5 * deviation; of two numbers the deviation is half their distance
    half = (apart[0] - apart[1]).abs() / 2
    assert reward.score(["ask"] * 2, replies).tolist() == pytest.approx((apart.mean(0) - 0.5 * half).tolist(), abs=1e-5)
    assert isinstance(reward, Uncertain)
    assert reward.spread(["ask"] * 2, replies).tolist() == pytest.approx(half.tolist(), abs=1e-5)
    heads = reward_of("shared_trunk", members=2, seen_share=0.5, rule="min").build(sources)
    assert sources.asked[1:] == [(2, 0.5)]
    model = tiny_reward(5, outputs=2)
    raw = model.outputs(model.encode(["ask"] * 2, replies)).detach()
    assert heads.score(["ask"] * 2, replies).tolist() == pytest.approx((2 * raw.amin(1)).tolist(), abs=1e-5)
    assert isinstance(heads, Uncertain)
    assert heads.spread(["ask"] * 2, replies).tolist() == pytest.approx((raw[:, 0] - raw[:, 1]).abs().tolist(), abs=1e-5)
    reward_of("average", members=3, differ="head").build(sources)
    reward_of("last_layer", deviations=2, features="both", references=1).build(sources)
    assert sources.asked[2:] == [("head", 3, None), ("both", 1, 2.0)]


def test_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_reward.py").write_text(
        "from typing import Literal\n"
        "from trueup.rewards.config import RewardConfig\n"
        "from trueup.rewards.programmed import ProgrammedReward\n"
        "class ShortConfig(RewardConfig):\n"
        "    kind: Literal['own_reward.here'] = 'own_reward.here'\n"
        "    most: int = 2\n"
        "    def build(self, sources):\n"
        "        return ProgrammedReward(lambda prompts, replies: [float(len(r.text.split()) <= self.most) for r in replies])\n"
    )
    (tmp_path / "own_reward").mkdir()
    (tmp_path / "own_reward.py").rename(tmp_path / "own_reward" / "here.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = reward_of("sum", parts=[{"reward": {"kind": "own_reward.here", "most": 1}}, {"reward": "learned"}])
    assert scores(config, "3", "3 a") == [4.0, 3.0]
    for name in ("own_reward.here", "own_reward"):
        sys.modules.pop(name, None)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"


@pytest.mark.parametrize("number", range(4))
def test_the_page_shows_what_is_valid(number: int) -> None:
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(found) == 4
    values = yaml.safe_load(found[number])
    config = validate({"world": "helpdesk", **values}, RunConfig, where="page")
    assert [a.name for a in config.arms] == [a["name"] for a in values.get("arms", [{"name": "static"}])]


def test_the_page_names_every_kind() -> None:
    table = PAGE.read_text(encoding="utf-8").split("| kind | is |")[1].split("```")[0]
    named = {kind for row in table.splitlines() for kind in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")}
    assert set(kinds_of_rewards()) <= named
