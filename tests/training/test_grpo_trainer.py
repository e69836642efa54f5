"""What our GRPO trainer does where it cannot be seen from a run of one process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")


class Engine:
    """DeepSpeed's, as far as gradients go: it has made its step when they are asked for."""

    def zero_grad(self) -> None:
        raise AssertionError("too late")


@pytest.mark.parametrize("learns", [True, False])
def test_under_deepspeed_a_batch_that_teaches_nothing_makes_a_step_of_length_zero(
    learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gen_service.training.grpo_trainer import GroupTrainer
    from gen_service.training.trl_trainer import GRPOTrainer

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda *_: torch.tensor(2.0))
    monkeypatch.setattr(GRPOTrainer, "_clip_grad_norm", lambda *_: 1.0)
    trainer: Any = object.__new__(GroupTrainer)
    trainer.is_deepspeed_enabled, trainer._learns = True, learns
    trainer.optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}, {"lr": 0.2}])
    assert float(trainer._compute_loss(None, {"row_scale": 1.5})) == 3.0
    assert trainer._clip_grad_norm(Engine()) == 1.0
    assert [group["lr"] for group in trainer.optimizer.param_groups] == ([0.1, 0.2] if learns else [0.0, 0.0])
