"""Arithmetic of guided decoding: tilts and what they cost, search trees step by step, priors of segments, the KL of the best of n."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests_support import tiny_policy
from trueup.core.errors import UserError
from trueup.decoding.methods.args import ArgsConfig
from trueup.decoding.methods.controlled import ControlledConfig
from trueup.decoding.methods.rad import RadConfig
from trueup.decoding.methods.sample import SampleConfig
from trueup.decoding.methods.tree_search_mcts import distinct
from trueup.decoding.puct import (
    Node,
    back_up_best,
    back_up_means,
    back_up_values,
    descend,
    leaf_of,
    log_puct,
    puct,
    visit_logp,
)
from trueup.decoding.segments import Prefix, stop_tokens
from trueup.ops.tilt import divergence, only_best, soft_value, spread
from trueup.stats.best_of_n import exact_kl_nats, kl_nats, kl_of_best


def logs(*shares: float) -> torch.Tensor:
    return torch.tensor(shares, dtype=torch.float64).log()


def test_only_the_best_is_left() -> None:
    found = only_best(torch.tensor([[0.0, 3.0, 3.0], [-1.0, -2.0, -math.inf]]))
    # of equals the first
    assert found.tolist() == [[-math.inf, 0.0, -math.inf], [0.0, -math.inf, -math.inf]]


def test_candidates_take_all_the_probability() -> None:
    # scores log 1 and log 3 of tokens 2 and 0: shares 1/4 and 3/4
    found = spread(logs(1, 3)[None], torch.tensor([[2, 0]]), torch.zeros(1, 4, dtype=torch.float64))
    assert found.exp().tolist() == [pytest.approx([0.75, 0.0, 0.25, 0.0])]


def test_divergence_of_a_row() -> None:
    # 1/2 log(1/2 / 1/4) twice; a token that is never taken adds nothing, also where the policy never takes it either
    found = divergence(logs(0.5, 0.5, 0.0)[None], logs(0.25, 0.25, 0.5)[None])
    assert found.item() == pytest.approx(math.log(2))
    assert divergence(logs(1.0, 0.0)[None], logs(1.0, 0.0)[None]).item() == 0.0


def test_soft_values() -> None:
    # chances 1/4 and 3/4 of rewards 0 and log 2: E[e^r] = 1/4 + 3/4 * 2 = 7/4; strength 2: (1/4 + 3/4 * 4)^(1/2) = (13/4)^(1/2)
    logp, reward = logs(0.25, 0.75), torch.tensor([0.0, math.log(2)], dtype=torch.float64)
    assert soft_value(logp, reward, 1.0).item() == pytest.approx(math.log(7 / 4))
    assert soft_value(logp, reward, 2.0).item() == pytest.approx(math.log(13 / 4) / 2)
    assert soft_value(logp, reward, 0.0).item() == pytest.approx(0.75 * math.log(2))
    # below a prefix, log-probabilities of whole replies do not add up to 1; only their shares count
    assert soft_value(logp - 3.0, reward, 1.0).item() == pytest.approx(math.log(7 / 4))


LOGP, VALUES = logs(0.5, 0.3, 0.2)[None], torch.tensor([[0.25, 2.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # values clamped to 0.25, 1, 0
        (RadConfig(beta=2.0), [math.log(0.5) + 0.5, math.log(0.3) + 2.0, math.log(0.2)]),
        (RadConfig(beta=2.0, clamp=False), [math.log(0.5) + 0.5, math.log(0.3) + 4.0, math.log(0.2) - 2.0]),
        (RadConfig(beta=2.0, inverse=True), [math.log(0.5) + 1.5, math.log(0.3), math.log(0.2) + 2.0]),
        (ControlledConfig(strength=3.0), [math.log(0.5) + 0.75, math.log(0.3) + 6.0, math.log(0.2) - 3.0]),
        # log 0.3 + 1.5 * 2 is the highest
        (ArgsConfig(weight=1.5), [-math.inf, 0.0, -math.inf]),
        (ArgsConfig(weight=1.0, temperature=0.5), [2 * math.log(0.5) + 0.5, 2 * math.log(0.3) + 4.0, 2 * math.log(0.2) - 2.0]),
        (SampleConfig(temperature=0.5), [2 * math.log(0.5), 2 * math.log(0.3), 2 * math.log(0.2)]),
        # a nucleus of 0.6 holds the first two
        (SampleConfig(top_p=0.6), [math.log(0.5), math.log(0.3), -math.inf]),
    ],
)
def test_scores_of_candidates(config: object, wanted: list[float]) -> None:
    assert config._scores(LOGP, VALUES)[0].tolist() == pytest.approx(wanted)  # type: ignore[attr-defined]


def grown(prior: list[float], value: float = 1.0, cost: list[float] | None = None) -> Node[str]:
    node = Node(state="", value=value)
    node.expand(np.array(prior), None if cost is None else np.array(cost))
    return node


def test_exploration() -> None:
    node = grown([0.5, 0.2])
    node.count, node.visits = 9, np.array([2, 0])
    # 4 P sqrt(9) / (1 + n): 4 * 0.5 * 3 / 3 and 4 * 0.2 * 3
    assert puct(4.0)(node).tolist() == pytest.approx([2.0, 2.4])
    # log((9 + 10 + 1) / 10) + 0.5 instead of 4
    strength = math.log(2.0) + 0.5
    assert log_puct(10.0, 0.5)(node).tolist() == pytest.approx([strength * 0.5, strength * 0.6])


def test_values_are_backed_up() -> None:
    root = grown([0.5, 0.5], value=1.0, cost=[0.25, 0.0])
    child = root.children[0] = grown([1.0], value=2.0)
    back_up = back_up_values(0.5)
    path = [(root, 0)]
    # Q = 0.5 * 2 - 0.25 = 0.75, and the root's value becomes that of its one visit; the other branch keeps the first value
    back_up(path, 2.0)
    assert (root.q.tolist(), root.visits.tolist(), root.count, root.value) == ([0.75, 1.0], [1, 0], 2, 0.75)
    # two steps down: the child's Q is 0.5 * 8 = 4, so its value 4, and the root's Q 0.5 * 4 - 0.25 = 1.75
    back_up([(root, 0), (child, 0)], 8.0)
    assert (child.q.tolist(), child.value, root.q[0], root.count) == ([4.0], 4.0, 1.75, 3)
    # the other branch: Q = 0.5 * 3 = 1.5; the root's value (2 * 1.75 + 1 * 1.5) / 3
    back_up([(root, 1)], 3.0)
    assert root.value == pytest.approx(5 / 3)
    assert root.visits.tolist() == [2, 1]


def test_the_best_is_backed_up() -> None:
    root = grown([0.5, 0.5], value=1.0)
    back_up_best(1.0)([(root, 0)], -3.0)
    # the branch never looked at still has the node's own value
    assert root.value == 1.0
    back_up_best(1.0)([(root, 1)], -1.0)
    assert root.value == -1.0


def test_means_are_backed_up() -> None:
    root = grown([0.5, 0.5], value=10.0)
    child = grown([1.0], value=4.0)
    back_up_means([(root, 0)], 4.0)
    back_up_means([(root, 0), (child, 0)], 1.0)
    # the mean of 4 and 1; the first value of a branch does not count
    assert (root.q.tolist(), child.q.tolist(), root.visits.tolist(), root.count) == ([2.5, 10.0], [1.0], [2, 0], 3)


def test_the_walk_down() -> None:
    root = grown([0.4, 0.6])
    explore = puct(1.0)
    # values tie, so the prior decides; the branch was never looked at
    assert descend(root, explore) == [(root, 1)]
    assert leaf_of([(root, 1)], root) is None
    end = root.children[1] = Node(state="", value=5.0, terminal=True)
    root.q[1] = 5.0
    assert leaf_of(descend(root, explore), root) is end
    inner = root.children[1] = grown([1.0])
    assert descend(root, explore) == [(root, 1), (inner, 0)]
    assert descend(Node(state="", value=0.0), explore) == []


def test_choice_by_visits() -> None:
    # n^(1/2) of 1, 9, 0: shares 1/4, 3/4
    assert np.exp(visit_logp(np.array([1, 9, 0]), 2.0)).tolist() == pytest.approx([0.25, 0.75, 0.0])
    assert visit_logp(np.array([3, 3, 1]), 0.0).tolist() == [0.0, -math.inf, -math.inf]
    # so cold that shares would overflow
    assert np.exp(visit_logp(np.array([10, 20]), 1e-3)).tolist() == pytest.approx([0.0, 1.0])


def test_equal_segments_are_one_branch() -> None:
    # geometric means of probabilities: e^(-2/2), e^(-2/2), e^(-1/1): all e^-1, and the first two are one segment
    drawn = [Prefix(reply=(3, 4), logp=-2.0, length=2), Prefix(reply=(3, 4), logp=-2.0, length=2), Prefix(reply=(5,), logp=-1.0, length=1)]
    kept, prior = distinct(drawn)
    assert [p.reply for p in kept] == [(3, 4), (5,)]
    assert prior.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_tokens_that_end_a_segment() -> None:
    tokenizer = tiny_policy().tokenizer
    assert stop_tokens(tokenizer, ["dull", "bad"]) == {4, 5}
    for wrong in ("dull bad", "unheard-of"):
        with pytest.raises(UserError, match="not one token"):
            stop_tokens(tokenizer, [wrong])


def test_kl_of_the_best_reply() -> None:
    # p = 1/2, n = 2: won with chance 3/4, 3/4 log(3/2); the rest 1/4 (log 2 - log 2 - 1/2)
    assert kl_of_best(2, 0.5).item() == pytest.approx(0.75 * math.log(1.5) - 0.125)
    # a reply that is certain costs nothing, one that is next to impossible what scores without ties cost
    assert kl_of_best(4, 1.0).item() == 0.0
    assert kl_of_best(4, 1e-12).item() == pytest.approx(kl_nats(4).item(), abs=1e-6)
    assert kl_of_best(1, [0.1, 0.5]).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    # the best reply with probability 0.3 above 7,000 others that share the rest
    p = np.full(7001, 0.7 / 7000)
    p[-1] = 0.3
    assert kl_of_best(4, 0.3).item() == pytest.approx(exact_kl_nats(p, np.arange(7001), 4), abs=1e-3)
