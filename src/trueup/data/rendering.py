"""Conversations as text: what a model is shown of messages."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerFast

from trueup.core.errors import UserError, one_line
from trueup.data.rows import Conversation

Rendering = Literal["template", "roles"]
_ROLE_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}


def render_prompt(tokenizer: PreTrainedTokenizerFast, conversation: Conversation, rendering: Rendering = "template") -> str:
    """The text the policy is shown: plain prompts as they are, messages through the tokenizer's chat template.

    Args:
        tokenizer: the reader's.
        conversation: text or turns.
        rendering: ``template``, or ``roles`` to write ``Human: ...`` and ``Assistant: ...`` paragraphs where there is no chat template.

    Raises:
        UserError: messages, but no chat template and rendering is ``template``; or the template refuses them.
    """
    if isinstance(conversation, str):
        return conversation
    if tokenizer.chat_template is None:
        if rendering == "roles":
            return roles_text(conversation)
        raise UserError(
            "the prompt is a list of messages but the tokenizer has no chat template. Use a chat model's tokenizer, give plain text "
            "prompts, or set `rendering: roles` to write turns as 'Human: ...' and 'Assistant: ...'."
        )
    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in conversation], tokenize=False, add_generation_prompt=True))
    except Exception as error:  # jinja's own error types; a template may raise any text for messages it does not take
        raise UserError(f"the tokenizer's chat template refuses these messages: {one_line(error)}.") from error


def roles_text(conversation: Conversation) -> str:
    """Turns as ``Human: ...`` and ``Assistant: ...`` paragraphs, ending where the assistant is to speak; plain text as it is."""
    if isinstance(conversation, str):
        return conversation
    return "\n\n".join([*(f"{_ROLE_NAMES.get(m['role'], m['role'])}: {m['content']}" for m in conversation), "Assistant:"])


def plain_text(conversation: Conversation, reply: str) -> str:
    """Prompt and reply as one text for readers without a chat template: a line each, or the turns with their roles."""
    return f"{conversation}\n{reply}" if isinstance(conversation, str) else f"{roles_text(conversation)} {reply}"
