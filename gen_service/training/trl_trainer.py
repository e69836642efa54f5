"""TRL's trainers, imported without vLLM, and telling nobody of the runs.

TRL imports vLLM wherever it is installed, for sampling of its own that we do not use: it takes 5 s of processor time,
fails without `llguidance`, and warns of versions. While TRL's module is imported, it is told that there is none.

Each of TRL's trainers reports to its makers when it is made. Ours send nothing anywhere.
"""

from __future__ import annotations

import trl
import trl.import_utils as import_utils

_asks = import_utils.is_vllm_available
import_utils.is_vllm_available = lambda *_, **__: False
try:
    from trl.trainer import grpo_trainer
finally:
    import_utils.is_vllm_available = _asks


class SFTTrainer(trl.SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's SFTTrainer."""

    def _send_telemetry(self) -> None:
        """Nothing is told to anybody."""


class GRPOTrainer(grpo_trainer.GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's GRPOTrainer."""

    def _send_telemetry(self) -> None:
        """Nothing is told to anybody."""
