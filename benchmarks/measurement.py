"""What a stretch of work cost this process: wall time, CPU time of all its threads, peak memory."""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one stretch of work.

    Attributes:
        wall_s: seconds it took.
        cpu_s: user and system seconds of this process, all threads.
        children_cpu_s: the same of child processes that ended within it (verification workers).
        peak_mb: highest resident memory of this process so far, since its start, 10^6 bytes.
    """

    wall_s: float
    cpu_s: float
    children_cpu_s: float
    peak_mb: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


class Meter:
    """Measures from its making to `read`."""

    def __init__(self) -> None:
        self._wall, self._cpu, self._children = time.perf_counter(), _cpu_s(), _children_cpu_s()

    def read(self) -> Cost:
        """The cost since this meter was made."""
        return Cost(
            wall_s=time.perf_counter() - self._wall,
            cpu_s=_cpu_s() - self._cpu,
            children_cpu_s=_children_cpu_s() - self._children,
            peak_mb=peak_bytes() / 1e6,
        )


def peak_bytes() -> int:
    """Highest resident memory of this process. Linux's ru_maxrss also counts what the process was before its exec."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tree_cpu_s() -> float:
    """CPU seconds so far of this process and all below it, those that ended and were waited for among them."""
    return sum(sum(process.cpu_times()[:4]) for process in _tree())


def _tree() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Steal:
    """Measures, from its making to `share`, what a virtual machine's host took of its processors for others."""

    def __init__(self) -> None:
        self._stolen_s, self._wanted_s = _stolen_and_wanted_s()

    def share(self) -> float:
        """Of the processor time that was wanted, in [0, 1]: where it is large, what was measured is late by it."""
        stolen_s, wanted_s = _stolen_and_wanted_s()
        return (stolen_s - self._stolen_s) / max(wanted_s - self._wanted_s, 1e-9)


def _stolen_and_wanted_s() -> tuple[float, float]:
    times = psutil.cpu_times()._asdict()
    unused = times["idle"] + times.get("iowait", 0.0)
    # Linux counts a guest's time in user and nice, too.
    doubled = times.get("guest", 0.0) + times.get("guest_nice", 0.0)
    return times.get("steal", 0.0), sum(times.values()) - unused - doubled
