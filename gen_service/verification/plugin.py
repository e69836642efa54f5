"""Kinds of the user's own: found without importing them, imported in worker processes alone."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, get_args

from gen_service.errors import SpecError
from gen_service.records import Outcome
from gen_service.verification import options as kind_options
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind
from gen_service.verification.protocol import Ready

GROUP: Final = "gen_service.kinds"
CORRECT_FROM: Final = 0.5
_FIELD = "verification.kind"
_TARGET = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_OUTCOMES = frozenset(get_args(Outcome)) - {"no_answer", "truncated", "unverified"}


@dataclass(frozen=True, slots=True)
class Plugin:
    """A user's kind, not imported.

    Attributes:
        name: as settings name it.
        target: `module:attribute`.
        source: hash of the module's file and version of its distribution; what it imports is not part of it.
    """

    name: str
    target: str
    source: str


def located(name: str, known: tuple[str, ...]) -> Plugin:
    """The plug-in of this name, or `module:function`, found on the import path or in the working directory.

    Args:
        name: what settings say.
        known: the built-in kinds, for the error.

    Raises:
        SpecError: there is none.
    """
    if ":" in name:
        if not _TARGET.fullmatch(name):
            raise SpecError(_FIELD, name, "module:function, such as my_package.grading:grade")
        return Plugin(name, name, _file_digest(name))
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        plugins = sorted({one.name for one in entry_points(group=GROUP)})
        raise SpecError(_FIELD, name, f"one of {', '.join([*known, *plugins])}, or module:function")
    if len({one.value for one in found}) > 1:
        raise SpecError(_FIELD, name, "a name that one installed package uses, not several")
    target = found[0].value.replace(" ", "")
    version = found[0].dist.version if found[0].dist else ""
    return Plugin(name, target, f"{_file_digest(target)} {version}")


def loaded(name: str, target: str, given: Mapping[str, object]) -> Kind:
    """Imports a plug-in: a `Kind`, or a callable `(gold, answer, **options)`. For worker processes only.

    The callable gives a bool; a number, correct from 0.5 on; a bool and the reason; or a `Grade`.

    Raises:
        SpecError: what was found is neither, or does not take the options.
        Exception: whatever the import raises.
    """
    module, _, path = target.partition(":")
    found: object = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    if isinstance(found, Kind):
        kind_options.refuse_unknown(name, given, ())
        return replace(found, name=name, fast=_undecided, normalised=str.strip, grade=_Graded(name, found.grade, {}))
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise SpecError(_FIELD, name, f"a Kind or a plain callable (gold, answer); it is of type {_type(found)}")
    try:
        inspect.signature(found).bind("", "", **given)
    except TypeError as problem:
        raise SpecError(
            kind_options.FIELD, dict(given), f"what the callable takes beside two texts: {problem}"
        ) from None
    except ValueError:  # no signature to look at, as of some built-in functions
        pass
    return Kind(name, 1, _Graded(name, found, given))


def stand_in(plugin: Plugin, ready: Ready | None = None) -> Kind:
    """A plug-in's kind in a process where none of its code runs; what a worker said of it, once one did."""
    if ready is None:
        return Kind(plugin.name, 1, _elsewhere)
    kind = Kind(plugin.name, ready.version, _elsewhere, choices=ready.choices, wants=ready.wants)
    return replace(kind, gold_problem=_elsewhere_too) if ready.checks_gold else kind


@dataclass(frozen=True, slots=True)
class _Graded:
    """A user's callable as the `grade` of a kind."""

    name: str
    call: Callable[..., object]
    options: Mapping[str, object]

    def __call__(self, gold: str, answer: str) -> Grade:
        return self._grade(self.call(gold, answer, **self.options))

    def _grade(self, given: object) -> Grade:
        if isinstance(given, Grade):
            fits = given.outcome in _OUTCOMES
            return replace(given, path="plugin") if fits else _bad(f"a Grade of outcome {given.outcome!r}")
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str):
            graded = self._grade(given[0])
            return graded if graded.outcome == "error" else replace(graded, reason=given[1])
        plain = given.item() if type(given).__module__ == "numpy" and hasattr(given, "item") else given
        if isinstance(plain, bool):
            return Grade("correct" if plain else "incorrect", f"by {self.name}", "plugin")
        if isinstance(plain, int | float) and math.isfinite(plain):
            outcome: Outcome = "correct" if plain >= CORRECT_FROM else "incorrect"
            return Grade(outcome, f"{plain:g} by {self.name}, correct from {CORRECT_FROM:g} on", "plugin")
        if inspect.iscoroutine(given):
            given.close()
        return _bad(f"{plain!r:.60}" if isinstance(plain, float) else f"a value of type {_type(given)}")


def _elsewhere(_gold: str, _answer: str) -> Grade:
    raise AssertionError("a plug-in is called in worker processes alone")


def _elsewhere_too(_gold: str) -> str | None:
    raise AssertionError("a plug-in is called in worker processes alone")


def _undecided(_gold: str, _answer: str) -> Grade | None:
    return None


def _bad(what: str) -> Grade:
    return Grade("error", f"the plug-in gave {what}, not a bool, a finite number, (bool, str) or a Grade", "plugin")


def _type(value: object) -> str:
    return type(value).__qualname__


def _file_digest(target: str) -> str:
    module = target.partition(":")[0]
    spec = _found(module)
    if spec is None:
        raise SpecError(_FIELD, target, f"a module that can be imported; no {module!r} on the import path or here")
    if not spec.has_location or spec.origin is None:
        return ""
    return blake2b(Path(spec.origin).read_bytes(), digest_size=8).hexdigest()


def _found(module: str) -> ModuleSpec | None:
    """Where a module is, importing neither it nor the packages around it."""
    importlib.invalidate_caches()
    names = module.split(".")
    spec = _top(names[0])
    for count in range(2, len(names) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _within(spec.submodule_search_locations, ".".join(names[:count]))
    return spec


def _top(name: str) -> ModuleSpec | None:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # `__main__`, which another process cannot import
        return None
    return spec or _within([os.getcwd()], name)


def _within(folders: Iterable[str], name: str) -> ModuleSpec | None:
    """A module or package in these folders; a folder of its name without `__init__.py` when there is nothing else."""
    plain: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        plain += (spec.submodule_search_locations or []) if spec is not None else []
    if not plain:
        return None
    package = ModuleSpec(name, None, is_package=True)
    package.submodule_search_locations = plain
    return package
