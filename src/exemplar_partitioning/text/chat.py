"""Prompts as a chat model sees them."""

from typing import Any

from ..errors import EPError


def in_template(tokenizer: Any, prompt: str) -> str:
    """A prompt as the user's message in the tokenizer's chat template, up to where the answer begins.

    Special tokens, BOS too if the model wants one, are part of it. Raises EPError if there is no template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise EPError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; leave out chat to take prompts as "
            "plain text"
        )
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
