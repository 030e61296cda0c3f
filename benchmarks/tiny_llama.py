"""The Llama of the comparisons: 8.4 M parameters, 6 layers, width 256, 8 heads, vocabulary 4,096 of words ``w0``, ``w1``, ..."""

from __future__ import annotations

from typing import Any

VOCABULARY, WIDTH, INNER, LAYERS, HEADS = 4096, 256, 1024, 6, 8
LAYER = 2.0 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
"""Matrix products of one token in one layer, forward."""
HEAD = 2.0 * WIDTH * VOCABULARY
"""Of one token in the language head."""


def tiny_llama(context: int, seed: int = 0) -> Any:
    """A policy with random weights.

    Args:
        context: longest sequence, tokens.
        seed: of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trueup.models.policy import Policy
    from trueup.models.tiny import tiny_tokenizer

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Policy(LlamaForCausalLM(config), tiny_tokenizer([f"w{i}" for i in range(VOCABULARY - 3)]))
