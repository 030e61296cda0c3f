"""Reward models: where they are read, what transformers reads in the same folder, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.data.tokens import encode_prompts, encode_replies, pack
from trueup.decoding.rollout import Rollout
from trueup.models import reward as reward_module
from trueup.models.heads import fresh_head
from trueup.models.loading import seeded
from trueup.models.policy import Policy, load_policy
from trueup.models.reward import EncoderReward, TrunkReward, load_reward, new_reward, reward_from_policy, shared_tokenizer
from trueup.models.tiny import tiny_llama, tiny_tokenizer

WORDS = ["ask", "tell", "good", "bad", "dull", "more"]
SIZE = len(WORDS) + 3
PROMPTS = ["ask", "ask tell more", "tell", "ask"]
REPLIES = [Reply(text="good"), Reply(text="bad dull good"), Reply(text="good good", finished=False), Reply(text="")]


def policy_of(kind: str = "llama") -> Policy:
    tokenizer = tiny_tokenizer(WORDS)
    with seeded(Key(2)):
        model: Any = (
            GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=24))
            if kind == "gpt2"
            else LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=SIZE,
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=24,
                    pad_token_id=0,
                    eos_token_id=1,
                    bos_token_id=None,
                )
            )
        )
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(6)
    return Policy(model, tokenizer)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_score_is_read_at_the_last_valid_token(kind: str) -> None:
    reward = reward_from_policy(policy_of(kind), Key(0))
    found = reward.score(reward.encode(PROMPTS, REPLIES))
    assert found.dtype == torch.float32
    tokenizer = reward.tokenizer
    for score, prompt, reply in zip(found, PROMPTS, REPLIES, strict=True):
        ids = encode_prompts(tokenizer, [prompt])[0] + encode_replies(tokenizer, [reply])[0]
        hidden = reward.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        assert score.item() == pytest.approx((reward.model.score.weight @ hidden).item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_transformers_own_forward_agrees_on_padded_batches(kind: str, tmp_path: Path) -> None:
    reward = reward_from_policy(policy_of(kind), Key(0))
    reward.save(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert plain.config.pad_token_id == reward.tokenizer.pad_token_id != reward.tokenizer.eos_token_id
    ids = [p + r for p, r in zip(encode_prompts(reward.tokenizer, PROMPTS), encode_replies(reward.tokenizer, REPLIES), strict=True)]
    width = max(map(len, ids))
    padded = torch.tensor([row + [plain.config.pad_token_id] * (width - len(row)) for row in ids])
    attention = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    theirs = plain(input_ids=padded, attention_mask=attention).logits.squeeze(-1)
    torch.testing.assert_close(reward.score(reward.encode(PROMPTS, REPLIES)), theirs, rtol=0, atol=1e-5)
    again = load_reward(tmp_path)
    assert isinstance(again, TrunkReward)
    assert torch.equal(again.score(again.encode(PROMPTS, REPLIES)), reward.score(reward.encode(PROMPTS, REPLIES)))


def test_lean_and_generic_path_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = reward_from_policy(policy_of(), Key(0))
    features = reward.encode(PROMPTS, REPLIES)
    outcomes = []
    for lean in (True, False):
        if not lean:
            monkeypatch.setattr(reward_module, "lean_trunk", lambda model: None)
        reward.model.zero_grad()
        score = reward.score(features)
        score.pow(2).sum().backward()
        outcomes.append((score.detach(), reward.model.score.weight.grad.clone(), reward.model.model.embed_tokens.weight.grad.clone()))
    for mine, reference in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_padding_tokens_in_a_reply_count_like_any_other() -> None:
    """A reader that looks for padding by value reads these two replies at the same place; we must not."""
    reward = reward_from_policy(policy_of(), Key(0))
    scores = reward.score(pack([[3], [3]], [[5, 0], [5]], reward.tokenizer.pad_token_id))
    alone = reward.score(pack([[3]], [[5, 0]], 0))
    assert scores[0].item() == pytest.approx(alone.item(), abs=1e-6)
    assert abs(scores[0] - scores[1]).item() > 1e-3


def test_padding_equal_to_eos_is_refused() -> None:
    policy = policy_of()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=policy.tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<eos>")
    with pytest.raises(UserError, match="must differ from eos"):
        reward_from_policy(Policy(policy.model, tokenizer), Key(0))


def test_the_head_is_drawn_as_stated_and_from_the_key() -> None:
    head = torch.nn.Linear(399, 1)
    fresh_head(head, Key(1))
    # N(0, 1/400) has deviation 0.05; of 399 draws the sample deviation errs by about 0.05 / sqrt(2 * 399) = 0.0018
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(400), abs=4 * 0.0018)
    assert head.bias.item() == 0.0
    again = torch.nn.Linear(399, 1)
    fresh_head(again, Key(1))
    assert torch.equal(again.weight, head.weight)
    fresh_head(again, Key(2))
    assert not torch.equal(again.weight, head.weight)


def test_a_policys_trunk_is_copied_not_shared() -> None:
    policy = policy_of()
    reward = reward_from_policy(policy, Key(0))
    assert torch.equal(reward.model.model.layers[0].mlp.up_proj.weight, policy.model.model.layers[0].mlp.up_proj.weight)
    with torch.no_grad():
        reward.model.model.layers[0].mlp.up_proj.weight.zero_()
    assert policy.model.model.layers[0].mlp.up_proj.weight.abs().max() > 0


def test_prompts_are_cut_from_the_left_and_replies_never() -> None:
    reward = reward_from_policy(policy_of(), Key(0))  # 24 positions
    long = " ".join(["ask"] * 40)
    features = reward.encode([long, long], [Reply(text="good bad"), Reply(text="good dull")])
    assert features.attention().sum(1).tolist() == [24, 24]
    assert features.replies.tolist() == encode_replies(reward.tokenizer, [Reply(text="good bad"), Reply(text="good dull")])
    scores = reward.score(features)
    assert scores[0] != scores[1]
    with pytest.raises(UserError, match="row 0: the reply alone has 31 tokens"):
        reward.encode(["ask"], [Reply(text=" ".join(["good"] * 30))])
    # a shorter limit of one's own holds for both ways to features
    reward.max_length = 10
    short = reward.encode([long], [Reply(text="good bad")])
    assert int(short.attention().sum()) == 10
    assert reward.from_policy_tokens(features, reward.tokenizer) is None
    assert reward.from_policy_tokens(short, reward.tokenizer) is not None
    reward.max_length = 100  # but not beyond the context
    assert int(reward.encode([long], [Reply(text="good bad")]).attention().sum()) == 24


def test_the_shared_tokenizer_path_equals_the_text_path_or_is_refused() -> None:
    policy = policy_of()
    reward = reward_from_policy(policy, Key(0))
    ids = encode_prompts(policy.tokenizer, PROMPTS)
    seq = Rollout(policy).sample(ids, num_samples=2, max_tokens=6, key=Key(1)).sequences
    from trueup.data.tokens import decode_replies

    replies = decode_replies(policy.tokenizer, seq.replies, seq.mask)
    prompts = [p for p in PROMPTS for _ in range(2)]
    fast = reward.from_policy_tokens(seq, policy.tokenizer)
    assert fast is not None
    torch.testing.assert_close(reward.score(fast), reward.score(reward.encode(prompts, replies)), rtol=0, atol=1e-5)
    # another tokenizer with the same words in another order
    assert reward.from_policy_tokens(seq, tiny_tokenizer(list(reversed(WORDS)))) is None
    # tokens that read back as others: eos in the middle of a reply, and a word split in two by a byte tokenizer
    middle = pack([[3]], [[5, 1, 5]], 0)
    assert reward.from_policy_tokens(middle, policy.tokenizer) is middle  # the text "good <eos> good" reads back as the same tokens
    lowercased = reward_from_policy(Policy(policy.model, _lowercasing()), Key(0))
    assert lowercased.from_policy_tokens(pack([[3]], [[SIZE - 1]], 0), _lowercasing()) is None


def _lowercasing() -> PreTrainedTokenizerFast:
    """Reads 'MORE' as another word than it writes."""
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer([*WORDS[:-1], "MORE"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def test_prompts_too_long_for_the_reward_model_refuse_the_fast_path() -> None:
    policy = policy_of()
    reward = reward_from_policy(policy, Key(0))
    assert reward.from_policy_tokens(pack([[3] * 30], [[5, 1]], 0), policy.tokenizer) is None


def test_token_level_uses_need_one_tokenizer() -> None:
    policy = policy_of()
    assert shared_tokenizer(policy, reward_from_policy(policy, Key(0))) is policy.tokenizer
    other = Policy(tiny_llama(9, 16, 1, 2, key=Key(0)), tiny_tokenizer(list(reversed(WORDS))))
    with pytest.raises(UserError, match="one tokenizer"):
        shared_tokenizer(policy, reward_from_policy(other, Key(0)))


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    policy_of().save(tmp_path)
    with pytest.raises(UserError, match="not a reward model: a scalar head would be random"):
        load_reward(tmp_path)


def test_a_classifier_of_several_labels_is_no_reward_model(tmp_path: Path) -> None:
    reward = reward_from_policy(policy_of(), Key(0))
    reward.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "a", "1": "b"}, {"a": 0, "b": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="2 labels"):
        load_reward(tmp_path)


def test_a_head_missing_from_the_weights_is_refused(tmp_path: Path) -> None:
    policy_of().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.update(architectures=["LlamaForSequenceClassification"], id2label={"0": "score"}, label2id={"score": 0})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"'score.weight', which would stay random"):
        load_reward(tmp_path)


def test_any_trunk_may_get_a_fresh_head(tmp_path: Path) -> None:
    policy_of().save(tmp_path / "lm")
    reward = new_reward(tmp_path / "lm", Key(3))
    assert isinstance(reward, TrunkReward)
    expected = torch.nn.Linear(16, 1, bias=False)
    fresh_head(expected, Key(3) / "head")
    assert torch.equal(reward.model.score.weight, expected.weight)
    assert torch.equal(reward.model.model.embed_tokens.weight, load_policy(tmp_path / "lm").model.model.embed_tokens.weight)
    reward.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    assert torch.equal(again.score(again.encode(PROMPTS, REPLIES)), reward.score(reward.encode(PROMPTS, REPLIES)))


def encoder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    with seeded(Key(0)):
        BertForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path


def test_an_encoder_as_reward_model(tmp_path: Path) -> None:
    reward = new_reward(encoder(tmp_path / "bert"), Key(0))
    assert isinstance(reward, EncoderReward)
    features = reward.encode(PROMPTS, REPLIES)
    scores = reward.score(features)
    assert scores.shape == (4,)
    alone = torch.stack([reward.score(reward.encode([p], [r]))[0] for p, r in zip(PROMPTS, REPLIES, strict=True)])
    torch.testing.assert_close(scores, alone, rtol=0, atol=1e-5)
    # [CLS] ask [SEP] good [SEP]: the reply and its separator are the second segment
    assert features.segments[0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    scores.sum().backward()
    reward.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    assert torch.equal(again.score(features), scores)


def test_an_encoder_cuts_prompts_not_replies(tmp_path: Path) -> None:
    reward = new_reward(encoder(tmp_path), Key(0))
    features = reward.encode(["tell " + "ask " * 20], [Reply(text="good bad dull")])
    # twelve positions: [CLS], six of the prompt, [SEP], three of the reply, [SEP]
    assert features.tokens.tolist() == [[1, *[4] * 6, 2, 6, 7, 8, 2]]
    with pytest.raises(UserError, match="row 0: the reply alone"):
        reward.encode(["ask"], [Reply(text="good " * 12)])


def test_a_head_of_two_outputs_is_saved_and_read_back(tmp_path: Path) -> None:
    policy_of().save(tmp_path / "lm")
    made = {
        "trunk": reward_from_policy(policy_of(), Key(1), outputs=2),
        "path": new_reward(tmp_path / "lm", Key(3), outputs=2),
        "encoder": new_reward(encoder(tmp_path / "bert"), Key(0), outputs=2),
    }
    for name, reward in made.items():
        features = reward.encode(PROMPTS, REPLIES)
        outputs = reward.outputs(features)
        assert outputs.shape == (4, 2)
        assert torch.equal(reward.score(features), outputs[:, 0])
        assert (outputs[:, 0] - outputs[:, 1]).abs().min() > 0
        assert reward.head_weight().shape[0] == 2
        reward.save(tmp_path / name)
        assert torch.equal(load_reward(tmp_path / name).outputs(features), outputs)
    # transformers reads it too, as two labels
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "trunk").config.num_labels == 2
