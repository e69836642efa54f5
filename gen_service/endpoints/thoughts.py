"""Where a thought ends and the answer begins, in text that shows the tags."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def split_thinking(text: str) -> tuple[str | None, str]:
    """Split text with `<think>` tags into (reasoning or None, content).

    A template may have put the opening tag into the prompt, so a closing tag alone is enough; an opening tag that is
    never closed leaves no content.
    """
    body = text.lstrip()
    opened = body.startswith(OPEN)
    before, closed, after = (body.removeprefix(OPEN) if opened else text).partition(CLOSE)
    return tidied(before, after) if closed or opened else (None, text)


def tidied(reasoning: str, content: str) -> tuple[str | None, str]:
    """Without the line ends that templates put around the tags; None for a thought that holds nothing."""
    return reasoning.strip("\n") or None, content.lstrip("\n")
