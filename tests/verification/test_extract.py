"""Where the final answer is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.extract import Extracted, extract

CASES = [
    (r"so \boxed{42}.", "42", "boxed"),
    (r"\boxed{41} wait, actually \boxed{42}", "42", "boxed"),
    (r"\boxed{2} and \boxed{3}", "2, 3", "boxed"),
    (r"$\boxed{2}$, $\boxed{3}$", "2, 3", "boxed"),
    (r"\boxed{2} \text{ or } \boxed{3}", "2, 3", "boxed"),
    ("\\boxed{42}\n\n**Answer**\n\\boxed{42}", "42", "boxed"),
    (r"\boxed{42}, \boxed{42}", "42", "boxed"),
    (r"\boxed{\boxed{42}}", "42", "boxed"),
    (r"\boxed{ \fbox{ 42 } }", "42", "boxed"),
    (r"\boxed{x = \boxed{42}}", r"x = \boxed{42}", "boxed"),
    (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
    (r"\boxed{\begin{pmatrix} 1 \\ {2} \end{pmatrix}}", r"\begin{pmatrix} 1 \\ {2} \end{pmatrix}", "boxed"),
    (r"\\boxed{42}", "42", "boxed"),
    (r"\fbox{42}", "42", "boxed"),
    (r"\boxed{7} then \boxed{4", "7", "boxed"),
    (r"The answer is 3. \boxed{4}", "4", "boxed"),
    (r"\boxed{}", None, "boxed"),
    ("<answer>42</answer>", "42", "answer_tag"),
    ("<answer> $x$ </answer> or <answer>", "x", "answer_tag"),
    ("9 + 9 = 18\n#### 1,234", "1,234", "hashes"),
    ("The answer is 41. (not 42)", "41", "phrase"),
    ("the Answer is: $\\frac{1}{2}$.", r"\frac{1}{2}", "phrase"),
    ("The answer is 3.5", "3.5", "phrase"),
    ("✅ Final Answer: **73**", "73", "phrase"),
    ("**Final answer:** 73 apples\nBye", "73 apples", "phrase"),
    ("<think>\\boxed{41}?</think> The answer is \\boxed{42}.", "42", "boxed"),
    ("no opening \\boxed{41} </think> so 42", None, "none"),
    ("I do not know.", None, "none"),
    ("", None, "none"),
]


@pytest.mark.parametrize(("content", "answer", "how"), CASES)
def test_finds_the_final_answer(content: str, answer: str | None, how: str) -> None:
    assert extract(None, content, "stop") == Extracted(answer, how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reasoning", "content", "finish_reason"),
    [
        (None, "<think>hmm \\boxed{42}", "length"),
        (None, "<think>hmm \\boxed{42}", "stop"),
        (None, "</think> so <think>again \\boxed{42}", "stop"),
        ("hmm \\boxed{42}", "", "length"),
        ("hmm", "The sum is", "length"),
        ("hmm", "The answer is 4", "length"),
        ("hmm", "#### 4", "length"),
        ("hmm", "\\boxed{4", "length"),
        ("hmm", "\\boxed{41}, no: \\boxed{4", "length"),
        (None, "", "length"),
    ],
)
def test_text_cut_before_an_answer_is_truncated(reasoning: str | None, content: str, finish_reason: str) -> None:
    assert extract(reasoning, content, finish_reason) == Extracted(None, "none", truncated=True)


@pytest.mark.parametrize("content", [r"\boxed{42}", r"\boxed{42} and to check", "<answer>42</answer> and"])
def test_a_complete_answer_before_the_cut_counts(content: str) -> None:
    found = extract("hmm", content, "length")
    assert (found.answer, found.truncated) == ("42", False)


def test_thinking_is_never_searched() -> None:
    assert extract("I get \\boxed{42}, so the answer is 42.", "", "stop") == Extracted(None, "none")


def _braced(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda parts: "{" + "".join(parts) + "}")


PLAIN = st.text(alphabet=st.characters(exclude_characters="{}\\<>", exclude_categories=["Cs"]), max_size=8)
BALANCED = st.lists(st.recursive(PLAIN, _braced, max_leaves=12), max_size=5).map("".join)


@given(before=PLAIN, inside=BALANCED, after=PLAIN)
def test_a_box_gives_back_what_it_holds(before: str, inside: str, after: str) -> None:
    found = extract(None, f"{before}\\boxed{{{inside}}}{after}", "stop")
    assert found.answer == (inside.strip() or None)


@given(st.text(alphabet="{}\\boxedf <>/answer#is:t.,$ \n1", max_size=300), st.sampled_from(["stop", "length"]))
def test_any_text_gives_an_answer_or_a_reason(content: str, finish_reason: str) -> None:
    found = extract(None, content, finish_reason)
    assert found.answer is None or found.answer.strip()
    assert not (found.truncated and found.answer is not None)
    assert (found.how == "none") <= (found.answer is None)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 200_000,
        "}" * 200_000,
        "\\" * 200_000,
        "\\boxed{" * 30_000,
        "\\boxed{" * 14_000 + "4" + "}" * 14_000,
        "\\boxed{" * 9 + "\\" * 199_000,
        "\\boxed{1}" * 22_000,
        "\\boxed" + " " * 200_000,
        "answer is " * 20_000,
        "answer" + " " * 200_000,
        "<answer>" * 25_000,
        "</think>" * 25_000,
        "#" * 200_000,
        "\0" * 200_000,
    ],
)
def test_long_hostile_text_is_searched(text: str) -> None:
    """Each of these took minutes with a search that starts again at every brace or box."""
    found = extract(None, text + "\n\\boxed{42}", "stop")
    assert found.answer is not None
    assert found.answer.endswith("42")
