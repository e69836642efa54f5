"""The whole weights of a model whose parts several processes hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_whole_weights(trainer: Any, folder: Path) -> None:
    """Save the weights of a transformers Trainer as one process would: what transformers and vLLM load.

    Every process calls it, since each may hold a part; one of them writes. Trainer's own `save_model` does the same,
    except under FSDP where checkpoints are in shards: there it writes nothing.
    """
    if trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model)
        if trainer.args.should_save:
            trainer._save(str(folder), state_dict=state)
    else:
        trainer.save_model(str(folder), _internal_call=True)
