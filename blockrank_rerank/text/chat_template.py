"""What a tokenizer's chat template writes around the text of a prompt."""

from __future__ import annotations

from typing import Any

_DATE = {"%Y": "2025", "%y": "25", "%m": "01", "%B": "January", "%b": "Jan", "%d": "01", "%A": "Wednesday", "%a": "Wed"}
_WRITTEN = "".join(f' | replace("{directive}", "{value}")' for directive, value in _DATE.items())
_CLOCK = "{% macro strftime_now(format) %}{{ format" + _WRITTEN + " }}{% endmacro %}\n"
"""Stands for the clock where a template asks for it. Other directives stay as they are: it is not to be right."""

_DROPPED = "the tokenizer's chat template drops messages; set chat=False in the config's prompt"
_USER, _ASSISTANT = "@@blockrank-user-content@@", "@@blockrank-assistant-content@@"


def chat_wrapping(tokenizer: Any) -> tuple[str, str]:
    """What a chat template writes before the user's content, and between it and the assistant's.

    Raises
    ------
    ValueError
        For a template that leaves one of them out.
    """
    if not tokenizer.chat_template:
        return tokenizer.bos_token or "", "\n"
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    try:
        template = tokenizer.get_chat_template()
        rendered = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            continue_final_message=True,
            # Templates that print today's date would give other scores tomorrow, and today's states would be no use.
            date_string="01 Jan 2025",
            chat_template=_CLOCK + template if "strftime_now" in template else template,
        )
    except Exception as error:
        # Templates raise whatever their authors chose.
        raise ValueError(f"{_DROPPED} ({' '.join(str(error).split())[:200]})") from error
    before, user, rest = rendered.partition(_USER)
    between, assistant, _ = rest.partition(_ASSISTANT)
    if not user or not assistant:
        raise ValueError(_DROPPED)
    return before, between
