"""math-verify as its README shows, in a process apart that answers one JSON line at a time and dies past a CPU budget:
`python -m benchmarks.verification_child CPU_S`.

`Child` is its other end: it starts the process, asks, and starts another when one died.
"""

from __future__ import annotations

import json
import logging
import resource
import select
import signal
import subprocess
import sys
import time
from typing import Any, Self

from benchmarks.verification_cases import bare

CPU_S = 20.0
WALL_S = 120.0
MEMORY_BYTES = 4 * 1024**3
_LONGEST_REASON = 200
# One answer of each usual kind, so that what is built on first use is built before anything is measured.
WARM_UP = (
    ("42", r"\boxed{42}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    ("x^2+2x+1", r"\boxed{(x+1)^2}"),
    (r"\{1,2\}", r"\boxed{2,1}"),
    ("[1,2)", r"\boxed{1\le x<2}"),
)


class Child:
    """A running process, replaced when it dies; use it as a context manager."""

    def __init__(self, cpu_s: float = CPU_S) -> None:
        self._command = [sys.executable, "-m", __name__, str(cpu_s)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, question: dict[str, str]) -> dict[str, Any] | str:
        """The answer, or in words why there is none: past a budget (`timeout: ...`), or dead (`error: ...`)."""
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answered is not None
        print(json.dumps(question), file=asked, flush=True)
        is_ready, _, _ = select.select([answered], [], [], WALL_S)
        line = answered.readline() if is_ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self._end()
        if not is_ready:
            return f"timeout: {WALL_S:g} s of wall time"
        return "timeout: CPU budget" if status == -signal.SIGPROF else f"error: the process ended with {status}"

    def _end(self) -> int:
        """Ends the process; gives its status, which tells how it died if it already had."""
        child, self._process = self._process, None
        if child is None:
            return 0
        try:
            child.communicate(timeout=1)  # closes its input, at which an idle one leaves
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        return child.returncode


class PlainMathVerify:
    """math-verify by its public `parse` and `verify` with their defaults, gold first: LaTeX and expressions, its own
    time limits of 5 s each. A gold without dollar signs is put into them, as the README asks for."""

    def __init__(self) -> None:
        from math_verify import parse, verify

        self._parse, self._verify = parse, verify
        self._warnings: list[str] = []
        listener = logging.Handler(logging.WARNING)
        listener.emit = lambda record: self._warnings.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("math_verify")
        logger.addHandler(listener)
        logger.propagate = False

    def right(self, gold: str, pred: str) -> tuple[bool, list[Any], list[Any]]:
        """Whether math-verify calls it right, and what it read of both."""
        expected = self._parse(gold)
        found = self._parse(pred)
        return bool(self._verify(expected, found)), expected, found

    def judge(self, gold: str, pred: str, level: str) -> dict[str, Any]:
        """The verdict in our words, with its CPU time."""
        self._warnings.clear()
        gold, pred = delimited(gold), delimited(pred) if level == "answer" else pred
        began = time.process_time()
        is_right, expected, found = self.right(gold, pred)
        cpu_ms = 1e3 * (time.process_time() - began)
        reason = f"{_shown(expected)} against {_shown(found)}"
        if is_right:
            outcome = "correct"
        elif any("Timeout" in warning for warning in self._warnings):
            outcome = "timeout"
        elif not expected or not found:
            outcome = "ungradable" if not expected else "unparsable"
        else:
            outcome = "incorrect"
        return {"outcome": outcome, "reason": reason, "cpu_ms": cpu_ms}


def delimited(text: str) -> str:
    """The text as math-verify wants it: LaTeX stands between marks. What has some already is left as it is."""
    marked = any(mark in text for mark in ("$", r"\(", r"\[", "boxed"))
    return text if marked or "\n" in text.strip() else f"${bare(text)}$"


def _shown(parsed: list[Any]) -> str:
    try:
        return str(parsed)[:_LONGEST_REASON]
    except Exception as error:  # a number too long to print, and whatever else sympy's printer raises
        return type(error).__name__


def main() -> None:
    """Answer until the input ends. The kernel ends the process past its CPU budget, inside C code too."""
    cpu_s, plain = float(sys.argv[1]), PlainMathVerify()
    for gold, pred in WARM_UP:
        plain.right(delimited(gold), pred)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        result = plain.judge(**json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
