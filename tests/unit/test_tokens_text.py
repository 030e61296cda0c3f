"""Text to tokens and back: padding, ends, truncation, templates, and the traps between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.data.rendering import plain_text, render_prompt
from trueup.data.rows import Message, Reply
from trueup.data.tokens import (
    Sequences,
    check_tokenizer,
    cut_left,
    decode_replies,
    encode_prompts,
    encode_replies,
    fit,
    load_tokenizer,
    pack,
    same_tokenizer,
)
from trueup.models.tiny import tiny_tokenizer

TURNS: tuple[Message, ...] = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "go"})
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"


def words() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(["hi", "yes", "go", "no"])


def bytes_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """One token a byte, a beginning and an end of sequence put around every text, as several published tokenizers do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate(["<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **special)


def test_packing_puts_prompts_right_and_replies_left() -> None:
    s = pack([[5], [6, 7, 8]], [[3, 4], [9]], pad_id=0)
    assert s.tokens.tolist() == [[0, 0, 5, 3, 4], [6, 7, 8, 9, 0]]
    assert s.prompt_mask.tolist() == [[False, False, True], [True, True, True]]
    assert s.mask.tolist() == [[True, True], [True, False]]
    assert s.replies.tolist() == [[3, 4], [9, 0]]
    assert s.attention().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert s.positions().tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]
    assert s.last().tolist() == [4, 3]


def test_last_token_of_an_empty_reply_is_the_prompts() -> None:
    assert pack([[5, 6], [7]], [[], [3]], pad_id=0).last().tolist() == [1, 2]


def test_masks_do_not_depend_on_the_padding_token() -> None:
    # the reply holds the padding token itself, and padding may equal eos
    for pad in (0, 1, 3):
        s = pack([[5], [6, 7]], [[3, 0, 1], [1]], pad_id=pad)
        assert s.mask.tolist() == [[True, True, True], [True, False, False]]
        assert s.last().tolist() == [4, 2]


def test_widening_keeps_what_counts() -> None:
    s = pack([[5], [6, 7]], [[3, 1], [1]], pad_id=0)
    wide = s.widen(4, 3, pad_id=9)
    assert wide.tokens.shape == (2, 7)
    assert [row[valid].tolist() for row, valid in zip(wide.tokens, wide.attention().bool(), strict=True)] == [[5, 3, 1], [6, 7, 1]]
    assert torch.equal(Sequences.concat([wide, s.widen(4, 3, 0)]).mask[:2], wide.mask)
    with pytest.raises(ValueError, match="cannot narrow"):
        wide.widen(1, 1, 0)


def test_replies_end_exactly_when_finished() -> None:
    t = words()
    ids = encode_replies(t, [Reply(text="yes no", finished=True), Reply(text="yes no", finished=False), Reply(text="", finished=True)])
    assert ids == [[4, 6, 1], [4, 6], [1]]
    s = pack([[3]] * 3, ids, t.pad_token_id)
    assert decode_replies(t, s.replies, s.mask) == [Reply(text="yes no"), Reply(text="yes no", finished=False), Reply(text="")]


@pytest.mark.parametrize("pad", [0, 1, 4], ids=["pad", "eos", "an ordinary word"])
def test_finished_is_read_from_the_mask_not_from_padding(pad: int) -> None:
    t = words()
    s = pack([[3], [3], [3]], [[4, 1], [4, 5, 6], [4, 0, 1]], pad_id=pad)
    assert decode_replies(t, s.replies, s.mask) == [
        Reply(text="yes"),
        Reply(text="yes go no", finished=False),
        Reply(text="yes <pad>"),  # a policy that writes the padding token is shown to write it
    ]


def test_words_outside_the_vocabulary_are_shown_and_come_back() -> None:
    t = words()
    (ids,) = encode_replies(t, [Reply(text="yes maybe", finished=False)])
    assert ids == [4, t.unk_token_id]
    (reply,) = decode_replies(t, torch.tensor([ids]), torch.ones(1, 2, dtype=torch.bool))
    assert encode_replies(t, [reply]) == [ids]


def test_prompts_get_bos_and_never_the_automatic_eos() -> None:
    t = bytes_tokenizer()
    assert t("ab")["input_ids"][-1] == t.eos_token_id  # the trap: a prompt that ends in eos is answered with nothing
    (ids,) = encode_prompts(t, ["ab"])
    assert ids[0] == t.bos_token_id
    assert t.eos_token_id not in ids
    assert len(ids) == 3
    (reply,) = encode_replies(t, [Reply(text="ab")])
    assert reply == [*ids[1:], t.eos_token_id]


def test_bos_equal_to_eos_is_kept_in_front_of_an_empty_prompt(tmp_path: Path) -> None:
    backend = words().backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 1)])
    t = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<eos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    assert encode_prompts(t, ["", "hi"]) == [[1], [1, 3]]


def test_an_empty_prompt_without_bos_is_refused() -> None:
    with pytest.raises(UserError, match="prompt is empty"):
        encode_prompts(words(), ["hi", ""])


def test_long_prompts_are_refused_or_cut_from_the_left() -> None:
    t = bytes_tokenizer()
    with pytest.raises(UserError, match=r"prompt 1: has 7 tokens where at most 4 fit"):
        encode_prompts(t, ["ab", "abcdef"], 4)
    ids = encode_prompts(t, ["abcdef"], 4, truncate="left")[0]
    assert ids[0] == t.bos_token_id
    assert t.decode(ids[1:]) == "def"
    assert cut_left([1, 2, 3, 4], 2) == [3, 4]
    assert cut_left([1, 2], 5) == [1, 2]


def test_truncation_never_makes_two_replies_equal() -> None:
    t = words()
    chosen, rejected = encode_replies(t, [Reply(text="yes yes yes"), Reply(text="yes yes no")])
    prompts = fit(t, [[3] * 9, [3] * 9], [chosen, rejected], 6)
    assert prompts == [[3, 3], [3, 3]]
    s = pack(prompts, [chosen, rejected], 0)
    assert s.replies.tolist() == [chosen, rejected]
    with pytest.raises(UserError, match=r"row 1: the reply alone has 4 tokens where .* 4"):
        fit(t, [[3], [3]], [[4], chosen], 4)
    with pytest.raises(UserError, match="row 0"):
        fit(t, [[3] * 9], [chosen], 6, truncate="error")
    assert fit(t, [[3] * 9], [chosen], None) == [[3] * 9]


def test_fitting_keeps_bos() -> None:
    t = bytes_tokenizer()
    prompts = encode_prompts(t, ["abcdef"])
    assert fit(t, prompts, [[5, 6]], 5) == [[t.bos_token_id, *prompts[0][-2:]]]
    assert fit(t, prompts, [[5, 6]], 3) == [prompts[0][-1:]]  # room for one token: the latest


def test_messages_need_a_template_or_plain_roles() -> None:
    t = words()
    with pytest.raises(UserError, match="chat template"):
        render_prompt(t, TURNS)
    assert render_prompt(t, TURNS, "roles") == "Human: hi\n\nAssistant: yes\n\nHuman: go\n\nAssistant:"
    t.chat_template = TEMPLATE
    assert render_prompt(t, TURNS) == "[user] hi [assistant] yes [user] go [assistant] "
    assert render_prompt(t, TURNS, "roles") == render_prompt(t, TURNS)  # where there is a template, it is used
    assert render_prompt(t, "hi") == "hi"
    t.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(UserError, match="no system turn"):
        render_prompt(t, TURNS)


def test_a_template_writes_its_own_bos() -> None:
    t = bytes_tokenizer(chat_template="<s>" + TEMPLATE)
    (ids,) = encode_prompts(t, [TURNS])
    assert ids.count(t.bos_token_id) == 1


def test_plain_text_for_readers_without_templates() -> None:
    assert plain_text("q", "a") == "q\na"
    assert plain_text(TURNS[:1], "a") == "Human: hi\n\nAssistant: a"


def test_a_tokenizer_without_eos_is_refused() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=words().backend_tokenizer, pad_token="<pad>")
    with pytest.raises(UserError, match=r"here: .*end-of-sequence"):
        check_tokenizer(bare, "here")
    assert check_tokenizer(bare, "here", needs_eos=False) is bare


def test_padding_falls_back_to_unk_but_never_silently_to_eos() -> None:
    backend = words().backend_tokenizer
    with_unk = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    assert check_tokenizer(with_unk, "here").pad_token_id == 2
    for unk in ({}, {"unk_token": "<eos>"}):
        with pytest.raises(UserError, match=r"here: .*Set `pad_token`"):
            check_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", **unk), "here")
    asked = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    assert check_tokenizer(asked, "here", "<eos>").pad_token_id == 1  # asked for by name, it is allowed: masks travel with the data
    with pytest.raises(UserError, match="'<nothing>' is not in the vocabulary"):
        check_tokenizer(asked, "here", "<nothing>")


def test_loading_a_tokenizer(tmp_path: Path) -> None:
    words().save_pretrained(tmp_path)
    assert same_tokenizer(load_tokenizer(tmp_path), words())
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)


def test_tokenizers_are_told_apart() -> None:
    assert same_tokenizer(words(), words())
    other = words()
    other.chat_template = TEMPLATE
    assert not same_tokenizer(words(), other)
    assert not same_tokenizer(words(), tiny_tokenizer(["hi", "yes", "no", "go"]))


def test_no_rows() -> None:
    assert encode_replies(words(), []) == []
    assert pack([], [], 0).tokens.shape == (0, 2)


def test_a_vocabulary_is_checked() -> None:
    for wrong in (["a", "a"], ["two words"], [""], ["<eos>"]):
        with pytest.raises(UserError, match="distinct words"):
            tiny_tokenizer(wrong)
