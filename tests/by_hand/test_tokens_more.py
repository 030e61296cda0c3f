"""Text to tokens and back, references, and where a reward model reads: eos, padding, truncation, positions."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests_support import WORDS, tiny_policy, tiny_reward
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rendering import render_prompt
from trueup.data.rows import Reply
from trueup.data.tokens import check_tokenizer, cut_left, decode_replies, encode_prompts, encode_replies, fit, pack, pad_rows
from trueup.models.loading import seeded
from trueup.models.policy import LoraSettings, Policy, adapted, reference_of
from trueup.models.reward import TrunkReward
from trueup.models.tiny import tiny_tokenizer

PAD, EOS, UNK, GOOD, BAD, DULL, ASK, TELL = range(8)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(WORDS)


def test_eos_says_that_a_reply_ended(tokenizer: PreTrainedTokenizerFast) -> None:
    replies = [Reply(text="good bad", finished=True), Reply(text="good bad", finished=False), Reply(text="", finished=True)]
    ids = encode_replies(tokenizer, replies)
    assert ids == [[GOOD, BAD, EOS], [GOOD, BAD], [EOS]]
    tokens, mask = pad_rows(ids, PAD, "right")
    assert mask.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    assert decode_replies(tokenizer, tokens, mask) == replies


def test_padding_is_told_by_the_mask_never_by_its_value(tokenizer: PreTrainedTokenizerFast) -> None:
    # padded with eos, or with a word: the same replies; an eos that is no padding does not end a cut reply
    rows = [[GOOD], [GOOD, EOS], [GOOD, EOS, BAD]]
    for pad in (PAD, EOS, DULL):
        tokens, mask = pad_rows(rows, pad, "right")
        assert [r.finished for r in decode_replies(tokenizer, tokens, mask)] == [False, True, False]
    # only the last eos is left out of the text; a policy that writes <pad> is shown to write it
    shown = decode_replies(tokenizer, torch.tensor([[GOOD, PAD, EOS]]), torch.ones(1, 3, dtype=torch.bool))
    assert shown == [Reply(text="good <pad>", finished=True)]


def test_prompts_lie_against_their_replies() -> None:
    seq = pack([[ASK], [ASK, TELL, BAD]], [[GOOD, EOS], [BAD]], PAD)
    assert seq.tokens.tolist() == [[PAD, PAD, ASK, GOOD, EOS], [ASK, TELL, BAD, BAD, PAD]]
    assert seq.prompt_width == 3
    assert seq.replies.tolist() == [[GOOD, EOS], [BAD, PAD]]
    assert seq.attention().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert seq.positions().tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]  # the first word is at 0 whatever stands before it
    assert seq.last().tolist() == [4, 3]
    wide = seq.widen(4, 3, GOOD)
    assert wide.tokens.tolist() == [[GOOD, PAD, PAD, ASK, GOOD, EOS, GOOD], [GOOD, ASK, TELL, BAD, BAD, PAD, GOOD]]
    assert wide.attention().tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match="cannot narrow"):
        seq.widen(2, 3, PAD)
    with pytest.raises(ValueError, match="2 prompts but 1 replies"):
        pack([[ASK], [ASK]], [[GOOD]], PAD)


def test_prompts_are_cut_from_the_left_and_replies_never(tokenizer: PreTrainedTokenizerFast) -> None:
    assert cut_left([1, 2, 3, 4], 3) == [2, 3, 4]
    assert cut_left([1, 2, 3, 4], 3, keep_front=1) == [1, 3, 4]
    assert cut_left([1, 2, 3, 4], 1, keep_front=1) == [1]
    assert cut_left([1, 2], 3) == [1, 2]
    assert fit(tokenizer, [[ASK, TELL, BAD]], [[GOOD, EOS]], 4) == [[TELL, BAD]]
    assert fit(tokenizer, [[ASK, TELL]], [[GOOD, EOS]], 4) == [[ASK, TELL]]
    with pytest.raises(UserError, match="the reply alone has 2 tokens"):
        fit(tokenizer, [[ASK]], [[GOOD, EOS]], 2)
    with pytest.raises(UserError, match="row 0: prompt and reply have 5 tokens where 4 fit"):
        fit(tokenizer, [[ASK, TELL, BAD]], [[GOOD, EOS]], 4, truncate="error")
    assert encode_prompts(tokenizer, ["ask tell bad"], 2, truncate="left") == [[TELL, BAD]]
    with pytest.raises(UserError, match="prompt 1: has 3 tokens where at most 2 fit"):
        encode_prompts(tokenizer, ["ask", "ask tell bad"], 2)
    with pytest.raises(UserError, match="prompt is empty"):
        encode_prompts(tokenizer, [""])


def test_turns_need_a_template(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "good"}, {"role": "user", "content": "tell"}]
    with pytest.raises(UserError, match="no chat template"):
        render_prompt(tokenizer, turns)
    assert render_prompt(tokenizer, turns, "roles") == "Human: ask\n\nAssistant: good\n\nHuman: tell\n\nAssistant:"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}bad{% endif %}"
    assert encode_prompts(tokenizer, [turns]) == [[ASK, GOOD, TELL, BAD]]


def test_a_tokenizer_without_eos_or_pad_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    no_eos = copy.deepcopy(tokenizer)
    no_eos.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence"):
        check_tokenizer(no_eos, "there")
    assert check_tokenizer(no_eos, "there", needs_eos=False) is no_eos
    no_pad = copy.deepcopy(tokenizer)
    no_pad.pad_token = None
    assert check_tokenizer(no_pad, "there").pad_token == "<unk>"  # the unknown token stands in, never eos
    no_pad.pad_token, no_pad.unk_token = None, None
    with pytest.raises(UserError, match="no padding token"):
        check_tokenizer(no_pad, "there")
    assert check_tokenizer(no_pad, "there", "dull").pad_token == "dull"
    with pytest.raises(UserError, match="'nowhere' is not in the vocabulary"):
        check_tokenizer(no_pad, "there", "nowhere")


def test_a_reward_model_reads_the_last_valid_token_as_transformers_does(tmp_path: Path) -> None:
    reward = tiny_reward()
    with torch.no_grad():
        reward.model.score.weight.mul_(20)
    prompts, replies = ["ask", "tell ask tell"], [Reply(text="good bad dull", finished=True), Reply(text="bad", finished=False)]
    with torch.no_grad():
        mine = reward.score(reward.encode(prompts, replies)).tolist()
    reward.save(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    rows = [[ASK, GOOD, BAD, DULL, EOS], [TELL, ASK, TELL, BAD]]
    with torch.no_grad():
        expected = [theirs(input_ids=torch.tensor([row])).logits.item() for row in rows]
    assert mine == pytest.approx(expected, abs=1e-5)
    assert abs(mine[0] - mine[1]) > 1e-2
    with torch.no_grad():  # whether it ended is part of the text
        cut = reward.score(reward.encode(prompts[:1], [Reply(text="good bad dull", finished=False)])).item()
    assert abs(cut - mine[0]) > 1e-3


def test_a_reward_model_that_pads_with_eos_is_refused() -> None:
    found = tiny_reward()
    tokenizer = copy.deepcopy(found.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(UserError, match="padding token must differ from eos"):
        TrunkReward(found.model, tokenizer)


def test_the_policys_tokens_are_features_only_where_the_text_gives_them_back() -> None:
    reward, policy = tiny_reward(), tiny_policy()
    fine = pack([[ASK]], [[GOOD, EOS]], PAD)
    assert reward.from_policy_tokens(fine, policy.tokenizer) is fine
    with torch.no_grad():
        text = reward.score(reward.encode(["ask"], [Reply(text="good", finished=True)]))
        torch.testing.assert_close(reward.score(fine), text, rtol=0, atol=1e-5)
    assert reward.from_policy_tokens(pack([[ASK]], [[EOS, GOOD]], PAD), tiny_tokenizer([*WORDS, "more"])) is None


@pytest.mark.parametrize("lora", [False, True])
def test_a_reference_stays_where_the_policy_was(lora: bool) -> None:
    policy = tiny_policy()
    if lora:
        policy = Policy(adapted(policy.model, LoraSettings(rank=2)), policy.tokenizer)
    reference = reference_of(policy)
    seq = pack([[ASK], [TELL, ASK]], [[GOOD, EOS], [BAD]], PAD)
    with torch.no_grad():
        before = policy.logprobs(seq)
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(0.1)
        assert (policy.logprobs(seq) - before).abs().max() > 1e-2
        torch.testing.assert_close(reference.logprobs(seq), before, rtol=0, atol=1e-6)
        torch.testing.assert_close(reference.logits(seq).log_softmax(-1)[0, 1, EOS], before[0, 1], rtol=0, atol=1e-5)
    assert not reference.logprobs(seq).requires_grad
    assert any(p.requires_grad for p in policy.model.parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_row_has_the_same_log_probabilities_alone_and_in_company(kind: str) -> None:
    policy = tiny_policy()
    if kind == "gpt2":  # learned positions, through transformers' own forward pass; dropout stays off
        with seeded(Key(0)):
            model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=32, initializer_range=0.3))
        policy = Policy(model, policy.tokenizer)
    policy.model.train()
    prompts, replies = [[ASK], [TELL, ASK, BAD, TELL]], [[GOOD, BAD, EOS], [DULL]]
    with torch.no_grad():
        together = policy.logprobs(pack(prompts, replies, PAD), 0.8)
        for i in (0, 1):
            alone = policy.logprobs(pack([prompts[i]], [replies[i]], PAD), 0.8)[0]
            torch.testing.assert_close(together[i, : len(replies[i])], alone, rtol=0, atol=1e-5)
        plain = policy.model(input_ids=torch.tensor([prompts[0] + replies[0]])).logits[0, :3].float()
        expected = (plain / 0.8).log_softmax(-1).gather(1, torch.tensor(replies[0])[:, None]).squeeze(1)
        torch.testing.assert_close(together[0], expected, rtol=0, atol=1e-5)
    assert together[1, 1:].tolist() == [0.0, 0.0]


def test_columns_of_padding_are_trimmed() -> None:
    wide = pack([[6], [7, 6]], [[3, 1], [4]], pad_id=0).widen(5, 4, 0)
    short = wide.trimmed()
    assert short.tokens.tolist() == [[0, 6, 3, 1], [7, 6, 4, 0]]
    assert (short.prompt_width, short.mask.tolist()) == (2, [[True, True], [True, False]])
    assert wide.lengths.tolist() == short.lengths.tolist() == [3, 3]
    # one column of each half stays where there is nothing
    bare = pack([[6]], [[]], pad_id=0).widen(2, 3, 0).trimmed()
    assert (bare.tokens.shape, bare.mask.shape) == ((1, 2), (1, 1))
    assert len(wide.take(torch.arange(0)).trimmed()) == 0
