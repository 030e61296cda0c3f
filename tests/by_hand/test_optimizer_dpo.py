"""DPO, cDPO, robust and length-regularised DPO: numbers worked out on paper, and what pairs become on the way to the loss."""

from __future__ import annotations

import math

import pytest
import torch

from tests_support import tiny_parts
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged
from trueup.learn.table import Examples
from trueup.ops.masking import sequence_sum
from trueup.optimizers.dpo import DPOConfig
from trueup.optimizers.offline import encode_pairs, pair_logps, pair_metrics

REF = torch.zeros(1, 2)
EQUAL = torch.ones(1, 2)


def margin(h: float) -> torch.Tensor:
    """[1, 2] log-probabilities whose log-ratios to REF differ by h."""
    return torch.tensor([[h + 0.25, 0.25]])


def batch(*pairs: tuple[str, str, str]) -> Examples[Judged]:
    rows = [
        judged(Preference(id=str(i), prompt=Prompt(id="p", text=p), chosen=Reply(text=c), rejected=Reply(text=r, finished=False)))
        for i, (p, c, r) in enumerate(pairs)
    ]
    return Examples(row=torch.arange(len(rows)), example=tuple(rows))


def test_golden_numbers() -> None:
    # h = 1.5, beta = .1: log(1 + e^-.15) = .6209570; dL/dlog pi_w = -.1 sigma(-.15) = -.0462570, and the opposite for the rejected
    logp = margin(1.5).requires_grad_()
    loss = DPOConfig(beta=0.1).pair_loss(logp, REF, EQUAL)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.6209570, abs=1e-6)
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([-0.0462570, 0.0462570], abs=1e-6)


def test_at_the_reference_the_loss_is_ln_2_for_any_beta() -> None:
    for beta in (0.01, 0.1, 5.0):
        assert DPOConfig(beta=beta).pair_loss(margin(0), REF, EQUAL).item() == pytest.approx(math.log(2))


def test_smoothed_labels() -> None:
    # z = .15, e = .1: .9 * .6209570 + .1 * (.6209570 + .15) = .6359570
    assert DPOConfig(beta=0.1, label_smoothing=0.1).pair_loss(margin(1.5), REF, EQUAL).item() == pytest.approx(0.6359570, abs=1e-6)
    # the least loss is at sigma(beta h) = 1 - e: for beta 1, e .1 at h = log 9, and there the entropy of .1, .3250830
    smoothed = DPOConfig(beta=1.0, label_smoothing=0.1)
    least = smoothed.pair_loss(margin(math.log(9)), REF, EQUAL).item()
    assert least == pytest.approx(0.3250830, abs=1e-6)
    assert all(smoothed.pair_loss(margin(math.log(9) + d), REF, EQUAL).item() > least for d in (-0.1, 0.1))


def test_robust_is_unbiased_under_flips() -> None:
    # ((1 - e) l(z) - e l(-z)) / (1 - 2e) with z = .15, e = .1: (.9 * .6209570 - .1 * .7709570) / .8 = .6022070
    robust = DPOConfig(beta=0.1, label_smoothing=0.1, loss_type="robust")
    assert robust.pair_loss(margin(1.5), REF, EQUAL).item() == pytest.approx(0.6022070, abs=1e-6)
    # mean over a label flipped with chance e is the clean loss
    right, wrong = (robust.pair_loss(margin(h), REF, EQUAL).item() for h in (1.5, -1.5))
    assert 0.9 * right + 0.1 * wrong == pytest.approx(0.6209570, abs=1e-6)


def test_length_regularised() -> None:
    # chosen 5 tokens, rejected 2, alpha .05: logit .15 - .05 * 3 = 0
    longer = torch.tensor([[5, 2]])
    assert DPOConfig(beta=0.1, length_alpha=0.05).pair_loss(margin(1.5), REF, longer).item() == pytest.approx(math.log(2), abs=1e-6)


def test_a_swapped_pair_and_a_shifted_prompt() -> None:
    # l(z) - l(-z) = -z; the same constant on both log-ratios changes nothing
    dpo, logp = DPOConfig(beta=0.5), margin(1.5)
    difference = dpo.pair_loss(logp, REF, EQUAL) - dpo.pair_loss(logp.flip(1), REF, EQUAL)
    assert difference.item() == pytest.approx(-0.75)
    assert dpo.pair_loss(logp + 3, REF, EQUAL).item() == pytest.approx(dpo.pair_loss(logp, REF, EQUAL).item())


def test_metrics_have_trl_names_and_ties_count_half() -> None:
    # two pairs: rewards 2 > 1, and a tie at 0: accuracy (1 + .5) / 2, margin (1 + 0) / 2
    found = pair_metrics(torch.tensor([[-3.0, -4.0], [-5.0, -6.0]]), torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
    values = {name: m.value for name, m in found.items()}
    assert values == {
        "rewards/chosen": 1.0,
        "rewards/rejected": 0.5,
        "rewards/accuracies": 0.75,
        "rewards/margins": 0.5,
        "logps/chosen": -4.0,
        "logps/rejected": -5.0,
    }


def test_pairs_become_tokens() -> None:
    # ids of the toy words: good 3, bad 4, dull 5, ask 6, tell 7; the chosen reply is finished and gets eos, 1
    parts = tiny_parts()
    seq = encode_pairs(parts.policy, batch(("ask", "good", "bad dull"), ("ask tell", "dull", "")))
    flat = seq.unstacked()
    rows = [row[real].tolist() for row, real in zip(flat.tokens, flat.attention().bool(), strict=True)]
    assert rows == [[6, 3, 1], [6, 4, 5], [6, 7, 5, 1], [6, 7]]
    assert seq.mask.sum(2).tolist() == [[2, 2], [2, 0]]


def test_both_sides_lose_the_same_prompt_tokens() -> None:
    # 32 tokens fit: 40 of the prompt, 2 and 11 of the replies; the longer one leaves room for 21, for both
    parts = tiny_parts()
    seq = encode_pairs(parts.policy, batch(("ask " * 39 + "tell", "good", " ".join(["bad"] * 11))))
    assert seq.prompt_mask.sum(2).tolist() == [[21, 21]]
    assert torch.equal(seq.tokens[0, 0, :21], seq.tokens[0, 1, :21])


def test_log_probabilities_are_those_of_rows_alone() -> None:
    parts = tiny_parts()
    data = batch(("ask", "good", "bad dull"), ("ask tell", "dull", "tell tell tell"))
    together = pair_logps(parts.policy, encode_pairs(parts.policy, data))
    for i in range(2):
        alone = encode_pairs(parts.policy, data.take(torch.tensor([i]))).unstacked()
        for j in range(2):
            row = alone.take(torch.tensor([j]))
            assert sequence_sum(parts.policy.logprobs(row), row.mask).item() == pytest.approx(together[i, j].item(), abs=1e-4)


def test_the_reference_stays_while_the_policy_moves() -> None:
    parts = tiny_parts()
    learner = DPOConfig(beta=0.1).build(parts)
    data = batch(("ask", "good", "bad dull"), ("ask tell", "dull", "tell"))
    first = learner.collect(data, Key(0))
    with torch.no_grad():
        for p in parts.policy.model.parameters():
            p.add_(0.05)
        again = learner.collect(data, Key(1))
        value = learner.loss(again, learner.weigh(again, learner.totals(again))).value.item()
    assert torch.equal(first.logp_ref, again.logp_ref)
    ratio = pair_logps(parts.policy, again.sequences) - again.logp_ref
    z = 0.1 * (ratio[:, 0] - ratio[:, 1])
    assert value == pytest.approx(torch.log1p(torch.exp(-z)).mean().item(), abs=1e-6)  # mean over pairs


def test_what_is_no_pair_is_refused() -> None:
    prompt = Prompt(id="p", text="ask")
    three = Judged(id="7", prompt=prompt, replies=(Reply(text="good"),) * 3, ratings=(3, 2, 1))
    tie = Judged(id="8", prompt=prompt, replies=(Reply(text="good"), Reply(text="bad")), ratings=(1, 1), where="pairs.jsonl, line 3")
    worse_first = Judged(id="9", prompt=prompt, replies=(Reply(text="bad"), Reply(text="good")), ratings=(0, 1))
    policy = tiny_parts().policy
    with pytest.raises(UserError, match=r"pair '7'.*got 3 replies"):
        encode_pairs(policy, Examples(row=torch.zeros(1), example=(three,)))
    with pytest.raises(UserError, match=r"line 3.*got a tie"):
        encode_pairs(policy, Examples(row=torch.zeros(1), example=(tie,)))
    seq = encode_pairs(policy, Examples(row=torch.zeros(1), example=(worse_first,))).unstacked()
    assert seq.replies[0, 0].item() == 3  # good is chosen


def test_robust_needs_a_chance_of_flips() -> None:
    with pytest.raises(UserError, match="needs label_smoothing"):
        validate({"loss_type": "robust"}, DPOConfig, where="here")
