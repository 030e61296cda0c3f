"""A real pretrained model: the tokenizer whose bos is its eos, and whose padding is its unknown token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trueup.core.rng import Key
from trueup.data.tokens import decode_replies, encode_prompts, encode_replies
from trueup.decoding.rollout import Rollout
from trueup.models.policy import Policy, load_policy
from trueup.models.reward import reward_from_policy

STORIES = Path(__file__).parents[2].parent / "shared" / "data" / "stories260K"
pytestmark = pytest.mark.skipif(not STORIES.is_dir(), reason=f"no {STORIES.name} beside the project")
PROMPTS = ["Once upon a time, there was a little girl named", "Tom had a big dog", ""]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(STORIES)


def test_prompts_begin_with_bos_and_do_not_end_with_it(policy: Policy) -> None:
    tokenizer = policy.tokenizer
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 1
    assert tokenizer.pad_token_id == tokenizer.unk_token_id == 0
    ids = encode_prompts(tokenizer, PROMPTS)
    assert [row[0] for row in ids] == [1, 1, 1]
    assert [row.count(1) for row in ids] == [1, 1, 1]
    assert ids[2] == [1]


def test_it_writes_english_alike_on_both_paths(policy: Policy) -> None:
    ids = encode_prompts(policy.tokenizer, PROMPTS)
    rollouts = [Rollout(policy, fused=fused) for fused in (True, False)]
    outcomes = [r.sample(ids, num_samples=4, max_tokens=40, temperature=0.7, key=Key(1)) for r in rollouts]
    assert torch.equal(outcomes[0].sequences.tokens, outcomes[1].sequences.tokens)
    # logits up to 25 over 0.7 come in float32 steps of 4e-6
    torch.testing.assert_close(outcomes[0].logp_sampling, outcomes[1].logp_sampling, rtol=0, atol=3e-5)
    seq = outcomes[0].sequences
    with torch.no_grad():
        torch.testing.assert_close(policy.logprobs(seq, 0.7), outcomes[0].logp_sampling, rtol=0, atol=3e-5)
    text = " ".join(r.text for r in decode_replies(policy.tokenizer, seq.replies, seq.mask)).split()
    assert sum(word in ("the", "a", "and", "to", "was", "her", "she", "he") for word in text) > len(text) / 10


def test_the_fast_path_to_a_reward_model_is_exact_or_refused(policy: Policy) -> None:
    reward = reward_from_policy(policy, Key(0))
    halves = ["Tom had a big d", "Tom had a big dog"]  # after half a word, replies begin with a half that no text begins with
    ids = encode_prompts(policy.tokenizer, halves)
    seq = Rollout(policy).sample(ids, num_samples=4, max_tokens=12, temperature=1.5, key=Key(2)).sequences
    replies = decode_replies(policy.tokenizer, seq.replies, seq.mask)
    again = encode_replies(policy.tokenizer, replies)
    exact = [row == tokens[valid].tolist() for row, tokens, valid in zip(again, seq.replies, seq.mask, strict=True)]
    assert not all(exact), "some replies must read back as other tokens, or this test says little"
    assert reward.from_policy_tokens(seq, policy.tokenizer) is None
    good = torch.tensor([i for i, same in enumerate(exact) if same])
    fast = reward.from_policy_tokens(seq.take(good), policy.tokenizer)
    assert fast is not None
    prompts = [p for p in halves for _ in range(4)]
    text = reward.encode([prompts[i] for i in good], [replies[i] for i in good])
    torch.testing.assert_close(reward.score(fast), reward.score(text), rtol=0, atol=1e-5)
