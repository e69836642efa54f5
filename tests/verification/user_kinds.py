"""Kinds of a user's own, good and bad, for the workers to import."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind

ANSWERS = {
    "yes": True,
    "no": False,
    "half": 0.5,
    "less": 0.49,
    "one": 1,
    "nan": float("nan"),
    "told": (True, "because"),
    "told score": (0.1, "hardly"),
    "grade": Grade("unparsable", "no such thing"),
    "bad grade": Grade("no_answer", "?"),
    "none": None,
    "text": "correct",
}


def given(gold: str, answer: str) -> object:
    return ANSWERS[answer]


def same_length(gold: str, answer: str, within: int = 0) -> bool:
    return abs(len(gold) - len(answer)) <= within


def hostile(gold: str, answer: str) -> bool:
    """Does what its answer says, then compares."""
    match answer.split():
        case ["raise"]:
            raise LookupError("nothing here")
        case ["exit"]:
            sys.exit("enough")
        case ["leave"]:
            os._exit(3)
        case ["abort"]:
            os.abort()
        case ["spin"]:
            while True:
                pass
        case ["sleep"]:
            time.sleep(600)
        case ["deaf"]:
            signal.signal(signal.SIGPROF, signal.SIG_IGN)
            time.sleep(600)
        case ["allocate"]:
            hoard = []
            while True:
                hoard.append(bytes(2**26))
        case ["print"]:
            print("a line\n" * 10_000)  # noqa: T201
            sys.stdout.flush()
        case ["fork"]:
            os.fork()
        case ["daemon", path]:
            _leave_behind(Path(path))
    return gold == answer


def _leave_behind(path: Path) -> None:
    """A grandchild in a session of its own, whose parent is gone; its process id is written to the file."""
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            time.sleep(600)
        path.write_text(str(pid))
        os._exit(0)
    os.wait()


async def later(gold: str, answer: str) -> bool:
    return gold == answer


not_callable = "grade"


def _gold_problem(gold: str) -> str | None:
    match gold:
        case "spins":
            while True:
                pass
        case "sleeps":
            time.sleep(600)
        case "bad":
            return "it is bad"
        case "raises":
            raise LookupError("no gold")
    return None


def _grade(gold: str, answer: str) -> Grade:
    if answer == "sleeps":
        time.sleep(600)
    time.sleep(0.01 if answer == "slow" else 0.0)
    return Grade("correct" if gold == answer else "incorrect", "compared")


careful = Kind("careful", 7, _grade, _gold_problem)
essay = replace(careful, version=8, wants="text")
