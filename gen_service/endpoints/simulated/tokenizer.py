"""The simulation's own tokenizer: exactly invertible, so that a trace can be taken up again from its token ids.

A prompt's text becomes one id per two UTF-8 bytes (one id for an odd last byte) and ends with `END_OF_PROMPT`.
Generated text is made of 1,024 words of four bytes (three letters and a space) and a few marks. No id is both, and the
end mark appears nowhere else, so `split` finds where a prompt ends and what was generated after it begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

WORDS: Final = tuple(f"{a}{b}{c} " for a, b, c in product("bdfghjklmnprstvz", "aeio", "bdfghjklmnprstvz"))
WORD_BYTES: Final = 4
_MARKS: Final = ("<think>", "</think>", "", "", "The answer is ", "\\boxed{", "}", ".", "-", *"0123456789")
THINK, END_THINK, END_OF_ANSWER, END_OF_PROMPT, ANSWER_IS, BOXED, CLOSE, DOT, MINUS, DIGIT_0 = range(
    len(WORDS), len(WORDS) + 10
)
_PAIRS: Final = 2048
_SINGLES: Final = _PAIRS + 2**16
VOCABULARY_SIZE: Final = _SINGLES + 2**8

TEXTS: Final = WORDS + _MARKS
TEXTS_UNTAGGED: Final = tuple("" if text in ("<think>", "</think>") else text for text in TEXTS)
JSON_TEXTS: Final = tuple(orjson.dumps(text)[1:-1] for text in TEXTS)
JSON_TEXTS_UNTAGGED: Final = tuple(orjson.dumps(text)[1:-1] for text in TEXTS_UNTAGGED)

_ID_OF_TEXT: Final = {text: token for token, text in enumerate(TEXTS) if text}
_ANSWER_TOKEN: Final = re.compile(r"[a-z]{3} |</?think>|The answer is |\\boxed\{|[}.\-0-9]")


def encode_prompt(text: str) -> list[int]:
    """The ids of a prompt, `END_OF_PROMPT` last."""
    data = text.encode()
    pairs: NDArray[np.uint16] = np.frombuffer(data, dtype="<u2", count=len(data) // 2)
    ids: list[int] = (pairs.astype(np.int32) + _PAIRS).tolist()
    if len(data) % 2:
        ids.append(_SINGLES + data[-1])
    ids.append(END_OF_PROMPT)
    return ids


def decode_prompt(ids: Sequence[int]) -> str:
    """The text of a prompt's ids, with or without the end mark; ids that no prompt has are skipped."""
    data = bytearray()
    for token in ids:
        if _PAIRS <= token < _SINGLES:
            data += (token - _PAIRS).to_bytes(2, "little")
        elif _SINGLES <= token < VOCABULARY_SIZE:
            data.append(token - _SINGLES)
    return data.decode(errors="replace")


def encode_answer(text: str) -> list[int]:
    """The ids of generated text, without the end mark, which has no text.

    Raises:
        ValueError: the text is not one that the simulation generates.
    """
    ids: list[int] = []
    position = 0
    while position < len(text):
        match = _ANSWER_TOKEN.match(text, position)
        if match is None or match[0] not in _ID_OF_TEXT:
            raise ValueError(f"not a simulated answer at character {position}: {text[position : position + 20]!r}")
        ids.append(_ID_OF_TEXT[match[0]])
        position = match.end()
    return ids


def decode_answer(ids: Sequence[int]) -> str:
    """The text of generated ids, `<think>` tags included."""
    return "".join([TEXTS[token] for token in ids])


def encode_number(number: int) -> list[int]:
    """One id per digit, after the sign if there is one."""
    sign = [MINUS] if number < 0 else []
    return sign + [DIGIT_0 + int(digit) for digit in str(abs(number))]


def split(ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """A prompt (its end mark included) and the generated ids after it; all of it is prompt where there is no mark."""
    try:
        end = ids.index(END_OF_PROMPT) + 1
    except ValueError:
        end = len(ids)
    return ids[:end], ids[end:]
