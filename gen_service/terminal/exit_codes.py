"""What the process says to its shell: 130 means interrupted, and the same command continues."""

from __future__ import annotations

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
