"""A line of a batch file, as OpenAI has them: {"custom_id", "method": "POST", "url", "body"}. Pure, save for reading.

A line has a model's name and one request; what is wrong with it is told by the codes that OpenAI's batches use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from gen_service.errors import BadPromptRow
from gen_service.records import BatchLine, Message, Prompt
from gen_service.storage.prompt_rows import excerpt
from gen_service.storage.prompt_text import Line, lines

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MOST_CHOICES = 128
LONGEST_CUSTOM_ID = 512


class BadLine(ValueError):
    """A line that is no request.

    Args:
        code: OpenAI's word for it.
        message: what is wrong and what would be right.
        param: the field at fault, or None where the line as a whole is.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.param = param
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One line: the client's name for it, the model it asks and what it asks."""

    custom_id: str
    model: str
    request: BatchLine


def batch_rows(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, RequestLine | BadPromptRow]]:
    """The lines of a batch file that are not blank, with their 1-based numbers; one line in memory."""
    for line in lines(file, max_bytes):
        if line.is_cut or line.content.strip():
            try:
                yield line.number, read_line(line, max_bytes)
            except BadLine as bad:
                yield line.number, BadPromptRow(line.number, str(bad), excerpt(line.content))


def read_line(line: Line, max_bytes: int) -> RequestLine:
    """What a line asks for.

    Args:
        max_bytes: named where the line is longer.

    Raises:
        BadLine: it is no request.
    """
    tree = _object(line, max_bytes)
    custom_id = _custom_id(tree)
    if (method := _required(tree, "method")) != "POST":
        raise BadLine("invalid_method", f"method: got {method!r:.100}; expected 'POST'", "method")
    if (url := _required(tree, "url")) not in (CHAT, COMPLETIONS):
        raise BadLine("invalid_url", f"url: got {url!r:.100}; expected {CHAT!r} or {COMPLETIONS!r}", "url")
    body = _required(tree, "body")
    if not isinstance(body, dict):
        raise BadLine("invalid_type", f"body: got {body!r:.100}; expected a JSON object", "body")
    model = _required(body, "model", "body.model")
    if not isinstance(model, str) or not model:
        raise BadLine("invalid_type", f"body.model: got {model!r:.100}; expected the name of a model", "body.model")
    _check_question(url, body)
    rest = {key: value for key, value in body.items() if key not in ("model", "n")}
    return RequestLine(custom_id, model, BatchLine(url, rest, _choices(body)))


def to_prompt(line: RequestLine, number: int, source: str) -> Prompt:
    """The line as a prompt; the request is kept as it was written, the messages are for people to read.

    Raises:
        BadPromptRow: it has several prompts, whose answers would be several results.
    """
    body = line.request.body
    try:
        messages = tuple(_message(turn) for turn in body["messages"]) if line.request.url == CHAT else _asked(body)
    except ValueError as error:
        raise BadPromptRow(number, str(error), excerpt(body)) from error
    return Prompt(line.custom_id, messages, None, source, number, line.request)


def _object(line: Line, max_bytes: int) -> dict[str, Any]:
    if line.is_cut:
        raise BadLine("invalid_json_line", f"a line longer than {max_bytes} bytes")
    try:
        tree = orjson.loads(line.content)
    except orjson.JSONDecodeError as error:
        raise BadLine("invalid_json_line", f"not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise BadLine("invalid_json_line", f"not a JSON object but {type(tree).__name__}")
    try:
        orjson.dumps(tree)
    except orjson.JSONEncodeError as error:  # deeper than it can be written out again, for the server
        raise BadLine("invalid_json_line", f"JSON nested too deeply: {error}") from error
    return tree


def _required(tree: dict[str, Any], key: str, param: str | None = None) -> Any:
    value = tree.get(key)
    if value is None:
        raise BadLine("missing_required_parameter", f"{param or key}: missing; it is required", param or key)
    return value


def _custom_id(tree: dict[str, Any]) -> str:
    value = _required(tree, "custom_id")
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_CUSTOM_ID or "\0" in value:
        expected = f"text of 1 to {LONGEST_CUSTOM_ID} characters, none of them NUL"
        raise BadLine("invalid_custom_id", f"custom_id: got {value!r:.100}; expected {expected}", "custom_id")
    return value


def _choices(body: dict[str, Any]) -> int:
    n = 1 if body.get("n") is None else body["n"]
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_CHOICES:
        expected = f"a whole number from 1 to {MOST_CHOICES}"
        raise BadLine("invalid_value", f"body.n: got {n!r:.100}; expected {expected}", "body.n")
    return n


def _check_question(url: str, body: dict[str, Any]) -> None:
    if url == CHAT:
        messages = _required(body, "messages", "body.messages")
        if not isinstance(messages, list) or not messages:
            expected = "a list of at least one message"
            raise BadLine("invalid_type", f"body.messages: got {messages!r:.100}; expected {expected}", "body.messages")
    elif not isinstance(prompt := _required(body, "prompt", "body.prompt"), str | list) or not prompt:
        expected = "text or token ids, not empty"
        raise BadLine("invalid_type", f"body.prompt: got {prompt!r:.100}; expected {expected}", "body.prompt")


def _asked(body: dict[str, Any]) -> tuple[Message, ...]:
    return (Message(role="user", content=_text_of(body["prompt"])),)


def _text_of(prompt: str | list[Any]) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise ValueError(f"body.prompt holds {len(prompt)} prompts; expected one: a line of its own for each")
        return _text_of(prompt[0]) if prompt[0] else ""
    return orjson.dumps(prompt).decode()


def _message(value: object) -> Message:
    """A turn of the chat as text: parts and what else is not text as their JSON."""
    turn = value if isinstance(value, dict) else {"content": value}
    role, content = turn.get("role"), turn.get("content")
    return Message(role=role if isinstance(role, str) else "", content=_content(content))


def _content(content: object) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else orjson.dumps(content).decode()
