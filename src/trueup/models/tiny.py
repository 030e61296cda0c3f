"""Small models made from nothing, for worlds with a closed vocabulary: milliseconds a step on one core."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.models.loading import seeded

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"


def tiny_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: one id a word, words separated by single spaces, ``<pad>`` 0, ``<eos>`` 1, ``<unk>`` 2.

    Args:
        words: distinct words without spaces; each gets the next id.

    Raises:
        UserError: a word is empty, holds a space, or comes twice.
    """
    wrong = [w for w in words if not w or w.split() != [w] or w in (PAD, EOS, UNK)]
    if wrong or len(set(words)) != len(words):
        raise UserError(
            f"a vocabulary holds distinct words without spaces, apart from {PAD}, {EOS}, {UNK}; wrong: {wrong[:3] or 'repeated words'}."
        )
    vocabulary = {w: i for i, w in enumerate([PAD, EOS, UNK, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, unk_token=UNK, clean_up_tokenization_spaces=False
    )


def tiny_llama(
    vocab_size: int, hidden_size: int = 64, layers: int = 2, heads: int = 4, max_positions: int = 128, *, key: Key
) -> LlamaForCausalLM:
    """A randomly initialised Llama with tied embeddings (at most 0.2 M parameters at the defaults and 1,000 words).

    Args:
        vocab_size: size of the tokenizer, special tokens included (ids as in `tiny_tokenizer`).
        hidden_size: width; a multiple of ``2 * heads``.
        layers: number of blocks.
        heads: attention heads.
        max_positions: the context, tokens.
        key: where the weights come from.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with seeded(key):
        return LlamaForCausalLM(config).eval()
