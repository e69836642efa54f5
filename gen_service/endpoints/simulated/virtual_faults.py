"""What goes wrong with virtual servers and when: drawn from a seed, so that a run repeats."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from gen_service.errors import SpecError

Kind = Literal["dies", "stalls", "slows", "drains", "overloaded"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# How long each lasts, from and to, in seconds. Stalls are shorter and longer than a client's patience (120 s).
_LASTS_S: Final[dict[Kind, tuple[float, float]]] = {
    "dies": (20.0, 300.0),
    "stalls": (10.0, 400.0),
    "slows": (60.0, 900.0),
    "drains": (30.0, 600.0),
    "overloaded": (5.0, 120.0),
}
_SLOWEST, _FASTEST = 0.05, 0.5
_LONGEST_RETRY_S: Final = 20
_RESTART_S: Final = (20.0, 120.0)


@dataclass(frozen=True, slots=True)
class VirtualFault:
    """One thing that goes wrong with one server.

    - `dies`: its streams break, connections are refused for `for_s`, then it is back with an empty cache;
    - `stalls`: it takes requests and makes no tokens;
    - `slows`: it works at `factor` of its speed;
    - `drains`: running requests go on, new ones get HTTP 500 while /health is well, as from a vLLM told to stop; after
      `for_s` it dies for `down_s`;
    - `overloaded`: new requests get HTTP 429, with `retry_after_s` where it is set.

    Attributes:
        at_s: seconds after the simulation's start.
        for_s: how long.
    """

    at_s: float
    url: str
    kind: Kind
    for_s: float
    factor: float = 1.0
    down_s: float = 0.0
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError("fault.kind", self.kind, f"one of {', '.join(KINDS)}")
        for name in ("at_s", "for_s", "down_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise SpecError(f"fault.{name}", getattr(self, name), "seconds, 0 or more")
        if not 0.0 < self.factor < math.inf:
            raise SpecError("fault.factor", self.factor, "a positive factor of its speed")


def fault_schedule(
    seed: int,
    urls: Sequence[str],
    horizon_s: float,
    *,
    mean_between_s: float = 1200.0,
    kinds: Sequence[Kind] = KINDS,
) -> tuple[VirtualFault, ...]:
    """Faults of each server until `horizon_s`, in order of time; a server has one at a time.

    Args:
        mean_between_s: mean of the (exponential) time from the end of a server's fault to its next.
        kinds: what may happen, each as likely as the others.

    Raises:
        SpecError: nothing may happen, or no time may pass between.
    """
    if not kinds:
        raise SpecError("kinds", kinds, f"some of {', '.join(KINDS)}")
    if not mean_between_s > 0.0:
        raise SpecError("mean_between_s", mean_between_s, "more than 0 seconds")
    faults: list[VirtualFault] = []
    for url in urls:
        drawn = random.Random(f"{seed} {url}")
        at_s = drawn.expovariate(1.0 / mean_between_s)
        while at_s < horizon_s:
            fault = _drawn(drawn, at_s, url, drawn.choice(list(kinds)))
            faults.append(fault)
            at_s += fault.for_s + fault.down_s + drawn.expovariate(1.0 / mean_between_s)
    return tuple(sorted(faults, key=lambda fault: (fault.at_s, fault.url)))


def _drawn(drawn: random.Random, at_s: float, url: str, kind: Kind) -> VirtualFault:
    for_s = drawn.uniform(*_LASTS_S[kind])
    if kind == "slows":
        return VirtualFault(at_s, url, kind, for_s, factor=drawn.uniform(_SLOWEST, _FASTEST))
    if kind == "drains":
        return VirtualFault(at_s, url, kind, for_s, down_s=drawn.uniform(*_RESTART_S))
    if kind == "overloaded":
        retry_after_s = float(drawn.randint(1, _LONGEST_RETRY_S)) if drawn.random() < 0.5 else None
        return VirtualFault(at_s, url, kind, for_s, retry_after_s=retry_after_s)
    return VirtualFault(at_s, url, kind, for_s)
