"""Utilisation over time, as the Open-R1 post draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Curve = Sequence[tuple[float, float]]


def plot(path: Path, panels: Mapping[str, Sequence[tuple[str, Curve]]]) -> None:
    """Draw one panel for each title, with one line for each named curve of (seconds, utilisation)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, 3.2 * len(panels)), sharex=True, squeeze=False)
    for axis, (title, curves) in zip(axes[:, 0], panels.items(), strict=True):
        for name, curve in curves:
            axis.plot([at for at, _ in curve], [100.0 * share for _, share in curve], label=name, linewidth=1.2)
        axis.set_title(title)
        axis.set_ylabel("% of a full KV cache's rate")
        axis.set_ylim(0, 180)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper right")
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
