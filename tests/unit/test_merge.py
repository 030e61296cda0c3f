"""Merged models: the arithmetic on policies and reward models, what is refused, and the verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests_support import WORDS, tiny_policy, tiny_reward
from trueup.cli import main
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.models.merge import merged_policy, merged_reward, relatedness
from trueup.models.policy import LoraSettings, Policy, adapted, load_policy, merged
from trueup.models.reward import TrunkReward, load_reward, reward_from_policy
from trueup.models.tiny import tiny_llama, tiny_tokenizer
from trueup.pipeline.merge import merge


def moved(policy: Policy, seed: int, size: float = 0.05) -> Policy:
    """The policy after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * size)
    return policy


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in policy.model.named_parameters()}


def test_policies_by_hand() -> None:
    a, b = tiny_policy(), moved(tiny_policy(), 1)
    soup = weights(merged_policy([a, b], [0.25, 0.75]))
    for name, x in soup.items():
        torch.testing.assert_close(x, 0.25 * weights(a)[name] + 0.75 * weights(b)[name])
    # ends are the models themselves; beyond an end the step goes on: a + 2 (b - a) = -a + 2 b
    for shares, wanted in (([1.0, 0.0], weights(a)), ([0.0, 1.0], weights(b))):
        found = weights(merged_policy([a, b], shares))
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    beyond = weights(merged_policy([a, b], [-1.0, 2.0]))
    for name, x in beyond.items():
        torch.testing.assert_close(x, weights(a)[name] + 2 * (weights(b)[name] - weights(a)[name]))
    three = weights(merged_policy([a, b, moved(tiny_policy(), 2)]))
    parts = [weights(p) for p in (a, b, moved(tiny_policy(), 2))]
    for name, x in three.items():
        torch.testing.assert_close(x, sum(p[name] for p in parts) / 3)


def test_adapters_are_merged_into_their_bases_first() -> None:
    plain, other = tiny_policy(), tiny_policy()
    policy = Policy(adapted(other.model, LoraSettings(rank=2)), other.tokenizer)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    whole = merged(policy.model).state_dict()
    soup = merged_policy([plain, policy], [0.5, 0.5]).model.state_dict()
    assert any(not torch.equal(whole[n], x) for n, x in plain.model.state_dict().items())
    for name, x in soup.items():
        torch.testing.assert_close(x, (plain.model.state_dict()[name] + whole[name]) / 2)


def test_reward_models_with_one_trunk_average_to_the_mean_score() -> None:
    """Heads are linear, so with equal trunks the score of the average is the average of scores."""
    a, b = tiny_reward(), tiny_reward()
    with torch.no_grad():
        b.head.weight.mul_(-3.0)
    replies = [Reply(text=w) for w in WORDS]
    asked = a.encode(["ask"] * len(replies), replies)
    soup = merged_reward([a, b], [0.25, 0.75])
    assert isinstance(soup, TrunkReward)
    with torch.no_grad():
        torch.testing.assert_close(soup.score(asked), 0.25 * a.score(asked) + 0.75 * b.score(asked), rtol=1e-4, atol=1e-5)


def test_relatedness_tells_beginnings_apart() -> None:
    a = tiny_policy()
    assert relatedness(a.model, a.model) == pytest.approx(1.0)
    assert relatedness(a.model, moved(tiny_policy(), 1).model) > 0.9
    assert abs(relatedness(a.model, tiny_policy(seed=5).model)) < 0.2


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two policies from one beginning, one of another, two reward models, one of other words, one of another width."""
    tiny_policy().save(tmp_path / "a")
    moved(tiny_policy(), 1).save(tmp_path / "b")
    tiny_policy(seed=5).save(tmp_path / "stranger")
    tiny_reward().save(tmp_path / "rm")
    reward_from_policy(tiny_policy(1), Key(9)).save(tmp_path / "rm2")
    tokenizer = tiny_tokenizer(["other", "words", "than", "those", "above"])
    Policy(tiny_policy().model, tokenizer).save(tmp_path / "words")
    wide = tiny_tokenizer(WORDS)
    Policy(tiny_llama(len(wide), 32, 1, 2, 32, key=Key(0)), wide).save(tmp_path / "wide")
    return tmp_path


def test_from_folder_to_folder(saved: Path) -> None:
    found = merge([str(saved / "a"), str(saved / "b")], [0.3, 0.7], saved / "out")
    assert (found.kind, found.weights) == ("policy", (0.3, 0.7))
    assert found.relatedness[0] == 1.0
    soup, a, b = (weights(load_policy(saved / n)) for n in ("out", "a", "b"))
    for name, x in soup.items():
        torch.testing.assert_close(x, 0.3 * a[name] + 0.7 * b[name])
    reward = merge([str(saved / "rm"), str(saved / "rm2")], None, saved / "mean")
    assert (reward.kind, reward.weights) == ("reward model", (0.5, 0.5))
    heads = [load_reward(saved / n).head_weight() for n in ("mean", "rm", "rm2")]
    assert heads[0] is not None
    assert heads[1] is not None
    assert heads[2] is not None
    torch.testing.assert_close(heads[0], (heads[1] + heads[2]) / 2)


@pytest.mark.parametrize(
    ("models", "shares", "said"),
    [
        (["a"], None, "takes two models or more, got 1"),
        (["a", "b"], [1.0], "2 models but 1 weights"),
        (["a", "b"], [0.5, 0.6], "add up to 1.1, not to 1"),
        (["a", "rm"], None, "is a reward model, but"),
        (["a", "stranger"], None, "seems not to have begun as"),
        (["a", "words"], None, "another tokenizer than the first"),
        (["a", "wide"], None, "Average models of one architecture only"),
        (["a", "nowhere/at/all"], None, "no such folder"),
    ],
)
def test_what_is_refused(saved: Path, models: list[str], shares: list[float] | None, said: str) -> None:
    with pytest.raises(UserError) as error:
        merge([str(saved / m) for m in models], shares, saved / "out")
    assert said in str(error.value)
    assert not (saved / "out").exists()


def test_strangers_may_be_insisted_on_and_folders_are_kept(saved: Path) -> None:
    found = merge([str(saved / "a"), str(saved / "stranger")], None, saved / "out", unrelated=True)
    assert found.relatedness[1] < 0.5
    with pytest.raises(UserError, match="not an empty folder"):
        merge([str(saved / "a"), str(saved / "b")], None, saved / "out")


def test_the_verb(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b, out = (str(saved / n) for n in ("a", "b", "o"))
    words = ["merge", "--model", a, "--weight", "0.3", "--model", b, "--weight", "0.7", "--out", out]
    assert main.invoke([*words, "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["kind"], said["weights"], said["out"]) == ("policy", [0.3, 0.7], out)
    assert main.invoke(words) == 2  # the folder holds a model now
    assert "not an empty folder" in capfd.readouterr().err
    assert main.invoke(["merge", "--model", str(saved / "a"), "--out", str(saved / "p")]) == 2
    assert "two models or more" in capfd.readouterr().err
