"""One answer in every shape and cut at every point ends in the same reasoning, content and tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.thoughts import CLOSE, OPEN, split_thinking

Shape = Literal["reasoning", "reasoning_content", "think", "think_opened_by_template"]
SHAPES: tuple[Shape, ...] = ("reasoning", "reasoning_content", "think", "think_opened_by_template")

words = st.lists(st.sampled_from(["so ", "2+2=4", "\n", "\n\n", "é", "</", "think", ">", " ", "x<y", "答"]), max_size=6)
# What a thought may not hold is the tag that ends it.
thoughts = words.filter(lambda parts: CLOSE not in "".join(parts) and OPEN not in "".join(parts))


def tokens_of(thought: list[str], answer: list[str], closed: bool) -> list[tuple[str, str]]:
    """(kind, text) of each token: the tags are tokens of their own, the end mark has no text."""
    tokens = [("tag", OPEN), *(("thought", word) for word in thought)]
    if closed:
        tokens += [("tag", CLOSE), *(("answer", word) for word in answer), ("end", "")]
    return tokens


def chat_choice(shape: Shape, tokens: list[tuple[str, str]], first_id: int) -> dict[str, Any]:
    """A chunk with these tokens, as a server of that shape sends it."""
    ids = list(range(first_id, first_id + len(tokens)))
    if shape in ("think", "think_opened_by_template"):
        drop = OPEN if shape == "think_opened_by_template" else None
        return {"delta": {"content": "".join(text for _, text in tokens if text != drop)}, "token_ids": ids}
    delta = {shape: "".join(text for kind, text in tokens if kind == "thought")}
    delta["content"] = "".join(text for kind, text in tokens if kind == "answer")
    return {"delta": {name: text for name, text in delta.items() if text}, "token_ids": ids}


def end(draft: Draft, finish_reason: str = "stop") -> tuple[str | None, str]:
    draft.take_chat_choice({"delta": {}, "finish_reason": finish_reason, "token_ids": []})
    assert draft.is_whole
    return draft.text()


def splits(length: int) -> st.SearchStrategy[list[int]]:
    return st.sets(st.integers(1, max(1, length - 1))).map(
        lambda cuts: [0, *sorted(cut for cut in cuts if cut < length), length]
    )


@given(thoughts, words, st.booleans(), st.data())
def test_all_shapes_and_chunkings_give_the_same_text(
    thought: list[str], answer: list[str], closed: bool, data: st.DataObject
) -> None:
    tokens = tokens_of(thought, answer, closed)
    # A server with a parser does not tell an empty thought from none, and neither do we.
    expected = ("".join(thought).strip("\n") or None, "".join(answer).lstrip("\n") if closed else "")
    for shape in SHAPES:
        if shape == "think_opened_by_template" and not closed:
            continue
        draft = Draft()
        bounds = data.draw(splits(len(tokens)))
        for start, stop in pairwise(bounds):
            draft.take_chat_choice(chat_choice(shape, tokens[start:stop], start))
        got = end(draft)
        if expected[0] is None and shape in ("reasoning", "reasoning_content"):
            assert (got[0], got[1].lstrip("\n")) == expected
        else:
            assert got == expected, shape
        assert list(draft.token_ids) == list(range(len(tokens)))


def send(draft: Draft, shape: Shape, tokens: list[tuple[str, str]], upto: int) -> None:
    """What a server sends that goes on from the draft and dies before token `upto`."""
    start = len(draft.token_ids)
    for number in range(start, upto):
        if start:
            draft.take_text_choice({"text": tokens[number][1], "token_ids": [number]})
        else:
            draft.take_chat_choice(chat_choice(shape, [tokens[number]], number))


@given(thoughts, words, st.sampled_from(SHAPES), st.data())
def test_cut_at_any_tokens_it_joins_right(
    thought: list[str], answer: list[str], shape: Shape, data: st.DataObject
) -> None:
    tokens = tokens_of(thought, answer, closed=True)
    undisturbed, draft = Draft(), Draft()
    send(undisturbed, shape, tokens, len(tokens))
    for cut in sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=4))):
        send(draft, shape, tokens, cut)
        draft.take_prompt_ids([7, 8, 9])
        draft = draft.reopened() if draft.can_continue else Draft()
    send(draft, shape, tokens, len(tokens))
    reasoning, content = end(undisturbed)
    if reasoning is None:
        assert (draft.text()[0], draft.text()[1].lstrip("\n")) == (None, content.lstrip("\n"))
    else:
        assert draft.text() == (reasoning, content)
    assert draft.token_ids == undisturbed.token_ids
    assert draft.tokens == len(tokens)


def test_tokens_whose_text_was_held_back_are_given_up() -> None:
    """Half of a character has an id and no text; the next server would send the whole prompt with the other half."""
    draft = Draft()
    draft.take_prompt_ids([1])
    draft.take_chat_choice({"delta": {"content": "a"}, "token_ids": [5]})
    draft.take_chat_choice({"delta": {"content": "b"}, "token_ids": [6]})
    draft.take_chat_choice({"delta": {"content": ""}, "token_ids": [7]})
    draft = draft.reopened()
    assert list(draft.token_ids) == [5, 6]
    assert draft.continued == 0
    draft.take_text_choice({"text": "é", "token_ids": [7, 8], "finish_reason": "stop"})
    assert draft.text() == (None, "abé")
    assert draft.continued == 1


def test_a_piece_of_several_tokens_is_certain_when_ascii_text_follows() -> None:
    draft = Draft()
    draft.take_prompt_ids([1])
    draft.take_chat_choice({"delta": {"content": "ab"}, "token_ids": [5, 6, 7]})
    assert not draft.can_continue
    draft.take_chat_choice({"delta": {"content": "é c"}, "token_ids": [8, 9, 10]})
    assert not draft.can_continue
    draft.take_chat_choice({"delta": {"content": " d"}, "token_ids": [11, 12]})
    again = draft.reopened()
    assert (list(again.token_ids), again.text()) == ([5, 6, 7, 8, 9, 10], (None, "abé c"))
    draft.take_chat_choice({"delta": {"content": "e"}, "token_ids": []})
    assert list(draft.reopened().token_ids) == [5, 6, 7, 8, 9, 10]


HALF = "\ufffd"
PROMPT = b"the prompt "


class DecodeStream:
    """How vLLM makes text of tokens: none while a character is half there; and where its prompt, or the tokens it goes
    on from, end in half a character, the text of all of them comes with the other half."""

    def __init__(self, prompt: bytes) -> None:
        self._bytes = prompt
        whole = prompt.decode(errors="replace")
        self._sent = 0 if whole.endswith(HALF) else len(whole)

    def step(self, token: bytes) -> str:
        self._bytes += token
        whole = self._bytes.decode(errors="replace")
        if whole.endswith(HALF):
            return ""
        piece, self._sent = whole[self._sent :], len(whole)
        return piece


def send_bytes(draft: Draft, shape: Shape | Literal["plain"], tokens: list[bytes], upto: int, sizes: list[int]) -> None:
    """As `send`, with half characters, and pieces of these sizes."""
    given = start = len(draft.token_ids)
    stream = DecodeStream(PROMPT + b"".join(tokens[:given]))
    while start < upto:
        stop = min(upto, start + sizes[start % len(sizes)])
        texts = [stream.step(token) for token in tokens[start:stop]]
        ids = list(range(start, stop))
        if given or shape == "plain":
            draft.take_text_choice({"text": "".join(texts), "token_ids": ids})
        elif shape in ("reasoning", "reasoning_content"):
            border = min(max(tokens.index(CLOSE.encode()) - start, 0), len(texts))
            content = "".join(texts[border:]).removeprefix(CLOSE)
            draft.take_chat_choice(
                {"delta": {shape: "".join(texts[:border]) or None, "content": content or None}, "token_ids": ids}
            )
        else:
            draft.take_chat_choice({"delta": {"content": "".join(texts)}, "token_ids": ids})
        start = stop


def test_the_model_of_a_detokenizer_does_as_the_one_that_vllm_uses() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    decoders = pytest.importorskip("tokenizers.decoders")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    real = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={one: i for i, one in enumerate(alphabet)}, merges=[]))
    real.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    real.decoder = decoders.ByteLevel()
    text = "ab é 漢字 😀 end"
    ids = real.encode(text).ids
    for cut in range(1, len(ids)):
        theirs, ours = decoders.DecodeStream(ids=ids[:cut]), DecodeStream(text.encode()[:cut])
        for token, byte in zip(ids[cut:], text.encode()[cut:], strict=True):
            assert (theirs.step(real, token) or "") == ours.step(bytes([byte])), cut


letters = st.text(st.sampled_from("ab =é漢😀"), max_size=12)


@given(letters, letters, st.sampled_from((*SHAPES[:2], SHAPES[3], "plain")), st.data())
def test_cut_inside_characters_nothing_is_lost_and_no_prompt_comes_in(
    thought: str, answer: str, shape: Shape | Literal["plain"], data: st.DataObject
) -> None:
    """Each byte is a token, so most places are inside a character."""
    tokens = [bytes([byte]) for byte in thought.encode()] + [CLOSE.encode()]
    tokens += [bytes([byte]) for byte in answer.encode()]
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    draft, undisturbed = begun_anew(Draft(shape == "plain")), Draft(shape == "plain")
    for cut in sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=5))):
        send_bytes(draft, shape, tokens, cut, sizes)
        draft = gone_on(draft, over_a_restart=data.draw(st.booleans()))
    send_bytes(draft, shape, tokens, len(tokens), sizes)
    send_bytes(undisturbed, shape, tokens, len(tokens), [len(tokens)])
    assert draft.text() == undisturbed.text()
    assert "".join(filter(None, draft.text())) == (thought + CLOSE * (shape == "plain") + answer)
    assert draft.token_ids == undisturbed.token_ids


@given(words, words, st.sampled_from(SHAPES), st.data())
def test_what_is_kept_of_an_answer_is_what_it_would_go_on_from(
    thought: list[str], answer: list[str], shape: Shape, data: st.DataObject
) -> None:
    """Also when it is kept again and again while it grows."""
    tokens = tokens_of(thought, answer, closed=True)
    draft = begun_anew(Draft())
    for upto in sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=4))):
        for start in range(len(draft.token_ids), upto, 2):
            draft.take_chat_choice(chat_choice(shape, tokens[start : min(upto, start + 2)], start))
        again, partial = draft.reopened(), draft.partial("s", 5.0)
        if partial is None:
            assert not draft.can_continue
            continue
        restored = Draft.restored(partial, is_plain=False)
        assert (restored.text(), restored.token_ids, restored.prompt_ids) == (
            again.text(),
            again.token_ids,
            again.prompt_ids,
        )
        assert (partial.sample_id, partial.started_at, partial.continued) == ("s", 5.0, 0)
        assert restored.partial("s", 5.0) is not None
        restored.take_text_choice({"text": "x", "token_ids": [999]})
        assert (restored.continued, restored.prompt_tokens, restored.pieces) == (1, 3, len(partial.token_ids) + 1)


def gone_on(draft: Draft, over_a_restart: bool) -> Draft:
    """What goes on from the draft: in the same run, or from what was kept of it on disk."""
    if not over_a_restart:
        return draft.reopened() if draft.can_continue else begun_anew(draft)
    partial = draft.partial("s", 1.0)
    return begun_anew(draft) if partial is None else Draft.restored(partial, draft.is_plain)


def begun_anew(draft: Draft) -> Draft:
    fresh = Draft(draft.is_plain)
    fresh.take_prompt_ids([7, 8, 9])
    return fresh


def test_the_end_of_a_thought_may_hide_in_the_ids_of_its_last_piece() -> None:
    """Tokens come in groups, and a group may end in `</think>`, which a reasoning parser takes out of the text."""
    draft = Draft()
    draft.take_prompt_ids([1])
    draft.take_chat_choice({"delta": {"reasoning": "bab "}, "token_ids": [1024, 5]})
    draft.take_chat_choice({"delta": {"reasoning": "bob "}, "token_ids": [6, 1025]})
    draft.take_chat_choice({"delta": {"content": ""}, "token_ids": [7]})
    again = draft.reopened()
    assert list(again.token_ids) == list(again.reopened().token_ids) == [1024, 5]
    assert again.reopened().text() == again.text() == ("bab ", "")
    again.take_text_choice({"text": "bob </think>The answer is 4.", "token_ids": [6, 1025, 8], "finish_reason": "stop"})
    assert again.text() == ("bab bob ", "The answer is 4.")
    assert draft.text() == ("bab bob ", "")
    assert list(draft.token_ids) == [1024, 5, 6, 1025, 7]
    draft.take_chat_choice({"delta": {"content": "The "}, "token_ids": [8, 9]})
    assert list(draft.reopened().token_ids) == [1024, 5]
    draft.take_chat_choice({"delta": {"content": "answer"}, "token_ids": [10, 11]})
    assert draft.reopened().text() == ("bab bob ", "The ")
    assert list(draft.reopened().token_ids) == [1024, 5, 6, 1025, 7, 8, 9]


def test_text_without_ids_cannot_be_taken_up_and_is_counted_by_usage() -> None:
    draft = Draft()
    draft.take_prompt_ids([1, 2])
    draft.take_chat_choice({"delta": {"content": "ab"}, "token_ids": [5]})
    assert draft.can_continue
    draft.take_chat_choice({"delta": {"content": "cd"}})
    assert not draft.can_continue
    draft.take_usage({"prompt_tokens": 2, "completion_tokens": 2})
    completion = draft.completion("http://x", (), 1.0, (None, 2.0))
    assert completion.content == "abcd"
    assert completion.completion_tokens == 2
    assert len(completion.token_ids) == 0


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"content": 5}, "token_ids": [1]},
        {"delta": {"content": "text"}, "token_ids": ["1"]},
        {"delta": {"content": "text"}, "token_ids": [2**40]},
        {"delta": {"content": "text"}, "token_ids": [1, None]},
        {"delta": {"reasoning": ["text"], "content": "text"}},
        {"delta": "text"},
    ],
)
def test_a_choice_of_another_shape_adds_nothing(choice: dict[str, Any]) -> None:
    draft = Draft()
    with pytest.raises((TypeError, OverflowError, AttributeError)):
        draft.take_chat_choice(choice)
    assert draft.text() == (None, "")
    assert draft.tokens == 0


def test_all_tokens_asked_for_are_an_end() -> None:
    draft = Draft()
    draft.take_chat_choice({"delta": {"content": "ab"}, "token_ids": [1, 2, 3]})
    draft.end_if_full(4)
    assert not draft.is_whole
    draft.end_if_full(3)
    assert draft.finish_reason == "length"
    assert draft.is_whole


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_the_server_gave_up_on_is_not_whole(reason: str) -> None:
    draft = Draft()
    draft.take_chat_choice({"delta": {"content": "ab"}, "finish_reason": reason})
    assert not draft.is_whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", (None, "4")),
        ("<think>2+2</think>4", ("2+2", "4")),
        ("\n <think>\n2+2\n</think>\n\n4", ("2+2", "4")),
        ("2+2</think>4", ("2+2", "4")),
        ("<think>2+2", ("2+2", "")),
        ("<think>\n\n</think>\n\n4", (None, "4")),
        ("<think>a</think>b</think>c", ("a", "b</think>c")),
    ],
)
def test_split_thinking(text: str, expected: tuple[str | None, str]) -> None:
    assert split_thinking(text) == expected


def test_the_first_token_is_told_once() -> None:
    draft, told = Draft(), []
    draft.on_first_token = lambda: told.append(True)
    draft.came(1.0)
    draft.came(2.0)
    assert draft.first_token_at == 1.0
    assert told == [True]
