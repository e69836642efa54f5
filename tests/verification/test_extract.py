"""Where the final answer is found."""

from __future__ import annotations

import re
import sys
from types import FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification import boxes, formulas, phrases, prose
from gen_service.verification import extract as extraction
from gen_service.verification.extract import extract

CASES = [
    (r"so \boxed{42}.", "42", "boxed"),
    (r"\boxed{41} wait, actually \boxed{42}", "42", "boxed"),
    (r"\boxed{2} and \boxed{3}", "2, 3", "boxed"),
    (r"$\boxed{2}$, $\boxed{3}$", "2, 3", "boxed"),
    (r"$$\boxed{2}$$ and $$\boxed{3}$$", "2, 3", "boxed"),
    (r"\(\boxed{2}\), \(\boxed{3}\) or \(\boxed{4}\)", "2, 3, 4", "boxed"),
    (r"\boxed{2} \text{ or } \boxed{3}", "2, 3", "boxed"),
    (r"\boxed{41} so \boxed{42}", "42", "boxed"),
    ("\\boxed{41}\n\\boxed{42}", "42", "boxed"),
    ("\\boxed{42}\n\n**Answer**\n\\boxed{42}", "42", "boxed"),
    (r"\boxed{42}, \boxed{42}", "42", "boxed"),
    (r"\boxed{\boxed{42}}", "42", "boxed"),
    (r"\boxed{ \fbox{ 42 } }", "42", "boxed"),
    (r"\boxed{x = \boxed{42}}", "x = {42}", "boxed"),
    (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
    (r"\boxed{\begin{pmatrix} 1 \\ {2} \end{pmatrix}}", r"\begin{pmatrix} 1 \\ {2} \end{pmatrix}", "boxed"),
    (r"\\boxed{42}", "42", "boxed"),
    (r"\\boxed{\\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
    (r"x \\ \boxed{a \\ b}", r"a \\ b", "boxed"),
    (r"\fbox{42}", "42", "boxed"),
    (r"\boxed{\text{The answer is } 42}", "42", "boxed"),
    (r"$\boxed 7$.", "7", "boxed"),
    (r"\boxed -1,234.5 and so on", "-1,234.5", "boxed"),
    (r"\boxed C", "C", "boxed"),
    (r"\boxed 3x", None, "none"),
    (r"\boxed 3 + 4", None, "none"),
    (r"\boxed{7} then \boxed{4", "7", "boxed"),
    (r"The answer is 3. \boxed{4}", "4", "boxed"),
    (r"\boxed{4}. The answer is 3.", "4", "boxed"),
    (r"\boxed{}", None, "boxed"),
    (r"\boxed{5} then \boxed{ }", None, "boxed"),
    (r"\boxed{5} no: \boxed{}. The answer is 6.", "6", "phrase"),
    (r"\boxed{5}, in the form `\boxed{}`", "5", "boxed"),
    (r"I put the answer in \boxed{...}. The answer is 6.", "6", "phrase"),
    (r"The answer goes in $\boxed{}$", None, "none"),
    ("<answer>42</answer>", "42", "answer_tag"),
    ("<answer> $x$ </answer> or <answer>", "x", "answer_tag"),
    (r"<answer>so \boxed{42}</answer>", "42", "boxed"),
    ("<answer> </answer>", None, "answer_tag"),
    ("9 + 9 = 18\n#### 1,234", "1,234", "hashes"),
    ("#### 42\nThat is all.", "42", "hashes"),
    ("#### Step 3: add them up\nThe answer is 7.", "7", "phrase"),
    ("#### Final Answer: 42", "42", "phrase"),
    ("#### Final Answer\n42", "42", "phrase"),
    ("The answer is 41. (not 42)", "41", "phrase"),
    ("The answer is 42, not 41.", "42", "phrase"),
    ("the Answer is: $\\frac{1}{2}$.", r"\frac{1}{2}", "phrase"),
    ("the answer is $x=5$.", "x=5", "phrase"),
    ("The answer is 3.5", "3.5", "phrase"),
    ("The answer is 3.5. It is exact. Good.", "3.5", "phrase"),
    ("The answer is 0.333...", "0.333...", "phrase"),
    ("The answer is 41. No, the answer is 42.", "42", "phrase"),
    ("✅ Final Answer: **73**", "73", "phrase"),
    ("**Final answer:** 73 apples\nBye", "73 apples", "phrase"),
    ("**Final Answer**\n\n73", "73", "phrase"),
    ("### Final Answer\n\n---\n\\[\n\\frac{1}{2}\n\\]\nDone.", r"\frac{1}{2}", "phrase"),
    ("### 5. Final Answer\nThe value of $x$ is **42**.", "42", "phrase"),
    ("**Final Answer**\n\n1. x = 2\n2. x = 3", "1. x = 2", "phrase"),
    ("The answer is 1. We are done.", "1", "phrase"),
    ("Final answer:\n```\n42\n```", "42", "phrase"),
    ("final answer is \\(x\\), which is odd", "x", "phrase"),
    ("The answer is 42 because 6 * 7 is 42.", "42", "phrase"),
    ("The answer is $5$ cm since it is.", "5 cm", "phrase"),
    ("The answer is $2$, $3$, or $4$.", "2, 3, 4", "phrase"),
    ("The answer is 2 to the power of 10.", "2 to the power of 10", "phrase"),
    ("The answer is 5 when n is even and 6 when n is odd", "5 when n is even and 6 when n is odd", "phrase"),
    ("The answer is $5 and the tip is $6.", "5 and the tip is 6", "phrase"),
    ("The answer is \\$18.", "\\$18", "phrase"),
    ("Answer: $[0, 5)$.", "[0, 5)", "phrase"),
    ("(The answer is 42.)", "42", "phrase"),
    (
        "The answer is\n\\begin{pmatrix}\n1 & 2\n\\end{pmatrix}\nas asked",
        "\\begin{pmatrix}\n1 & 2\n\\end{pmatrix}",
        "phrase",
    ),
    ("Answer: (B)", "(B)", "phrase"),
    ("The correct answer is **C**, since B is not.", "C", "phrase"),
    ("So the correct option is C.", "C", "phrase"),
    ("The correct choice is a hard one.", None, "none"),
    ("The answer should be 7.", "7", "phrase"),
    ("The answer is 7. The answer should be an integer.", "7", "phrase"),
    ("The answer is 7. So the answer is correct.", "7", "phrase"),
    ("The answer is 7. What if the answer is 8?", "7", "phrase"),
    ("If the answer is 8, then 3 is odd.", None, "none"),
    ("Answer: 7\n\nThe answer is obtained by adding 2 and 5.", "7", "phrase"),
    ("The answer is 2/3, i.e. about 0.67.", "2/3", "phrase"),
    ('The answer is "Paris".', "Paris", "phrase"),
    ("Is the answer: 42?", None, "none"),
    ("<think>\\boxed{41}?</think> The answer is \\boxed{42}.", "42", "boxed"),
    ("no opening \\boxed{41} </think> so 42", None, "none"),
    ("42", "42", "alone"),
    ("x = 5", "x = 5", "alone"),
    (r"$-2 \le x \le 7$", r"-2 \le x \le 7", "alone"),
    (r"\frac{1}{2}", r"\frac{1}{2}", "alone"),
    ("\\[\n42\n\\].", "42", "alone"),
    ("**42 apples**", "42 apples", "alone"),
    ("$2$ and $3$", "2, 3", "alone"),
    ("Evelyn", "Evelyn", "alone"),
    ("No solution.", "No solution", "alone"),
    ("We get 42", None, "none"),
    ("First line\n42", None, "none"),
    ("(C)", "(C)", "alone"),
    ("I choose option C.", None, "none"),
    ("I do not know.", None, "none"),
    ("", None, "none"),
]


@pytest.mark.parametrize(("content", "answer", "how"), CASES)
def test_finds_the_final_answer(content: str, answer: str | None, how: str) -> None:
    found = extract(None, content, "stop")
    assert (found.answer, found.how, found.truncated) == (answer, how, False)


@pytest.mark.parametrize(
    ("content", "answer", "how"),
    [
        ("Answer: **C**", "C", "choice"),
        ("The answer is (C) 42.", "C", "choice"),
        ("The correct option is C) Paris", "C", "choice"),
        ("The answer is 42.", "42", "phrase"),
        ("Answer: Carl", "Carl", "phrase"),
        ("All others fail.\n\n**C.**", "C", "choice"),
        ("Therefore (C).", "C", "choice"),
        ("I choose option C", "C", "choice"),
        ("Option C is correct.", "C", "choice"),
        ("Option B is wrong. Option C is the right answer.", "C", "choice"),
        ("so C.", "C", "choice"),
        (r"$\textbf{(D)}$", "D", "choice"),
        (r"\boxed{\text{D}}", r"\text{D}", "boxed"),
        ("It is not (C)", None, "none"),
        ("Option C is wrong.", None, "none"),
        ("(C) is one of them, I believe", None, "none"),
    ],
)
def test_choices_are_found_where_they_are_asked_for(content: str, answer: str | None, how: str) -> None:
    found = extract(None, content, "stop", choices=True)
    assert (found.answer, found.how) == (answer, how)
    if how == "choice":
        assert content[found.start : found.end] == answer


@pytest.mark.parametrize(
    ("content", "answer", "how"),
    [
        (r"so \boxed{\frac{1}{2" + "\nmore", r"\frac{1}{2", "boxed"),
        ("we get 42, then $x=3$ and 7 more", "x=3", "last_formula"),
        ("we pay $5 or so", "5", "last_number"),
        ("then \\(y\\) and \\[ 42 \\] it is", "42", "last_formula"),
        ("it would be 1,234.5 units", "1,234.5", "last_number"),
        ("it may be -5.", "-5", "last_number"),
        ("it may be 10-5.", "5", "last_number"),
        ("it was about 3/4.", "3/4", "last_number"),
        ("it was 50\\% of all", "50\\%", "last_number"),
        ("it was -\\frac{3}{4} of all", "-\\frac{3}{4}", "last_number"),
        (r"it was 12 \boxed{}", "12", "last_number"),
        ("<think> so \\boxed{7}", "7", "text"),
        ("<think> then 7 is it", "7", "text"),
        ("I do not know.", None, "none"),
    ],
)
def test_the_lenient_rule_guesses_where_the_strict_one_is_silent(content: str, answer: str | None, how: str) -> None:
    assert extract(None, content, "stop", "strict").answer is None
    found = extract(None, content, "stop", "lenient")
    assert (found.answer, found.how, found.truncated) == (answer, how, False)


def test_the_lenient_rule_reads_a_cut_text_and_thinking_that_was_split_off() -> None:
    assert extract(None, r"\boxed{5}, no: \boxed{4", "length", "lenient").answer == "4"
    assert extract(None, "The answer is 4", "length", "lenient").how == "phrase"
    found = extract(r"so \boxed{7} it", "", "length", "lenient")
    assert (found.answer, found.how, found.start, found.end) == ("7", "text", -1, -1)
    assert extract("no number", "", "length", "lenient").truncated


@pytest.mark.parametrize(
    ("reasoning", "content", "finish_reason"),
    [
        (None, "<think>hmm \\boxed{42}", "length"),
        (None, "<think>hmm \\boxed{42}", "stop"),
        (None, "<think>" + "x" * 300_000 + "\\boxed{42}", "stop"),
        (None, "</think> so <think>again \\boxed{42}", "stop"),
        ("hmm \\boxed{42}", "", "length"),
        ("hmm", "The sum is", "length"),
        ("hmm", "The answer is 4", "length"),
        ("hmm", "#### 4", "length"),
        ("hmm", "\\boxed{4", "length"),
        ("hmm", "\\boxed{41}, no: \\boxed{4", "length"),
        ("hmm", "\\boxed 4", "length"),
        ("hmm", "4", "length"),
        (None, "", "length"),
    ],
)
def test_text_cut_before_an_answer_is_truncated(reasoning: str | None, content: str, finish_reason: str) -> None:
    for reason in (finish_reason, "cancelled"):
        found = extract(reasoning, content, reason)
        assert (found.answer, found.how, found.truncated, found.start, found.end) == (None, "none", True, -1, -1)


@pytest.mark.parametrize("content", [r"\boxed{42}", r"\boxed{42} and to check", "<answer>42</answer> and"])
def test_a_complete_answer_before_the_cut_counts(content: str) -> None:
    for reason in ("length", "cancelled"):
        found = extract("hmm", content, reason)
        assert (found.answer, found.truncated) == ("42", False)


def test_thinking_is_never_searched() -> None:
    assert extract("I get \\boxed{42}, so the answer is 42.", "", "stop").answer is None


def test_only_the_last_part_of_a_long_text_is_searched() -> None:
    assert extract(None, "\\boxed{42}" + " x" * 100_000, "stop").answer is None
    content = " x" * 200_000 + "\\boxed{42}"
    found = extract(None, content, "stop")
    assert (found.answer, content[found.start : found.end]) == ("42", "42")


def _braced(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda parts: "{" + "".join(parts) + "}")


PLAIN = st.text(alphabet=st.characters(exclude_characters="{}\\<>"), max_size=8)
COMMAND = st.sampled_from(["\\frac", "\\\\", "\\{", "\\}", "\\pi ", "\\$", "\\begin{a}", "\\end{a}", "\\text"])
BALANCED = st.lists(st.recursive(PLAIN | COMMAND, _braced, max_leaves=12), max_size=5).map("".join)
PROSE = st.sampled_from(["", "The answer is 3. ", "#### 7\n", "$x$ so ", "\\boxed{41} then ", "{", "}", "**Answer:** "])
THOUGHT = st.sampled_from(["", "<think>\\boxed{41}</think>", "is it {\\boxed{</think>\n"])
ANYTHING = st.text(alphabet=st.characters(), max_size=60) | st.text(
    alphabet="{}\\boxedf <>/answeri#:t.,$ \n1?*()[]ABC-", max_size=300
)
WORDS = (
    "\\boxed|{|}|answer is |Answer:|\n|$|$$|\\(|\\)|**|42|. |x|####|\\|<answer>|</answer>|<think>|</think>|because |?"
    "| in |(C)|\ud800|\0|...| or "
)
PIECES = st.lists(st.sampled_from(WORDS.split("|")), max_size=40).map("".join)
FINISH = st.sampled_from(["stop", "length", ""])


@given(
    thought=THOUGHT, prose=PROSE, before=PLAIN, inside=BALANCED, after=PLAIN | PROSE.filter(lambda p: "box" not in p)
)
def test_a_box_gives_back_what_it_holds(thought: str, prose: str, before: str, inside: str, after: str) -> None:
    content = f"{thought}{prose}{before} so \\boxed{{{inside}}}{after}"
    found = extract(None, content, "stop")
    if inside.strip():
        assert found.answer == inside.strip() == content[found.start : found.end]
        assert found.how == "boxed"


@given(st.integers() | st.fractions() | st.decimals(allow_nan=False, allow_infinity=False), st.data())
def test_a_stated_number_is_found_where_it_stands(number: object, data: st.DataObject) -> None:
    before = data.draw(
        st.sampled_from(["The answer is ", "**Answer:** ", "### Final Answer\n\n", "#### ", "", "$", "**"])
    )
    after = data.draw(st.sampled_from(["", "\n"] if before in ("", "#### ") else ["", ".", ".\n\nDone.", "**", "$"]))
    after = before if before in ("$", "**") else after
    written = f"{number:f}" if "E" in str(number) else str(number)
    content = before + written + after
    found = extract(None, content, "stop")
    if len(written) <= 200:
        assert found.answer == written.rstrip(".") == content[found.start : found.end]


@given(st.none() | ANYTHING, ANYTHING | PIECES, FINISH, st.booleans())
def test_any_text_gives_an_answer_or_none(reasoning: str | None, content: str, finish: str, choices: bool) -> None:
    strict = extract(reasoning, content, finish, "strict", choices)
    lenient = extract(reasoning, content, finish, "lenient", choices)
    assert strict.answer is None or lenient == strict
    for found in (strict, lenient):
        assert found.answer is None or found.answer.strip()
        assert not (found.truncated and found.answer is not None)
        assert (found.how == "none") <= (found.answer is None)
        assert 0 <= found.start < found.end <= len(content) if found.start >= 0 else found.start == found.end == -1
        assert (found.start < 0) == (found.answer is None) or found.how == "text"
    assert strict.how not in ("last_formula", "last_number", "text")


HOSTILE = [
    "{",
    "}",
    "\\",
    "\\boxed{",
    "\\boxed{1}",
    "\\boxed{1},",
    "\\boxed{}",
    "in \\boxed{}",
    "\\boxed" + " " * 50,
    "\\boxed 1",
    "answer is ",
    "the answer to ",
    "answer" + " " * 50,
    "Final Answer\n",
    "answer: $",
    "answer: {",
    "answer: **",
    "answer: is it?\n",
    "answer: correct.\n",
    "answer: (((((",
    "answer:" + "\n" * 50,
    "<answer>",
    "</answer>",
    "</think>",
    "####",
    "#### a\n",
    "#",
    "$",
    "$$",
    "$ $",
    "\\(",
    "\\[",
    "\\[\\(",
    "*",
    " ",
    "\n",
    "\n\n",
    ".",
    ",",
    "1",
    "1,",
    "1,234,",
    "1/",
    "-",
    "\\frac{1}",
    "because ",
    "is ",
    "a ",
    "option (C",
    "\0",
    "\ud800",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_does_not_hide_the_box_after_it(piece: str) -> None:
    """Most of these took minutes with a search that starts again at every brace, box or space."""
    found = extract(None, piece * (200_000 // len(piece)) + "\n\nso \\boxed{42}", "stop")
    assert found.answer is not None
    assert found.answer.endswith("42")


def _lines_run(text: str, policy: Any, finish: str) -> int:
    """How many lines of Python the extraction of a text runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        extract(None, text, finish, policy, True)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("piece", HOSTILE)
def test_twice_the_text_is_at_most_twice_the_work(piece: str) -> None:
    once, twice = (_lines_run(piece * (size // len(piece)), "lenient", "stop") for size in (10_000, 20_000))
    assert twice <= 2 * once + 1_000


PATTERNS = [
    pytest.param(value, id=f"{module.__name__.rpartition('.')[2]}.{name}")
    for module in (boxes, extraction, formulas, phrases, prose)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
]


def _most_tries(tree: Any, unbounded_above: bool = False) -> int:
    """The product of the bounds of nested repeats; fails where one without a bound is in another repeat."""
    parser: ModuleType = re._parser  # type: ignore[attr-defined]
    largest = 1
    for operator, argument in tree:
        name = str(operator)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, high, inner = argument
            unbounded = high == parser.MAXREPEAT
            assert not (unbounded and unbounded_above), "an unbounded repeat in a repeat"
            inside = _most_tries(inner, unbounded_above or high > 1)
            largest = max(largest, inside * (1 if unbounded else high))
        elif name == "BRANCH":
            largest = max([largest, *(_most_tries(branch, unbounded_above) for branch in argument[1])])
        elif name in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
            largest = max(largest, _most_tries(argument[-1], unbounded_above))
    return largest


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_pattern_repeats_without_bound_in_a_repeat(pattern: re.Pattern[str]) -> None:
    assert _most_tries(re._parser.parse(pattern.pattern, pattern.flags)) <= 2_000  # type: ignore[attr-defined]
