"""Packed traces must not see each other: which attentions can keep them apart, and whether a model does.

A packed row says where its traces begin by positions that start anew. transformers makes a block-diagonal mask of them
(`eager`, `sdpa`, `flex_attention`), flash attentions take the boundaries themselves. Not every model hands either on:
of those in transformers 5.19, gpt-oss makes its masks without positions, ALiBi and BERT-like models never look at them,
and recurrent layers (Mamba, RWKV, Qwen3-Next without its kernels) carry a state across. None of them says so, and the
loss looks healthy. So the model itself is asked, as it will be trained: on its device, in its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gen_service.errors import SpecError

_LENGTHS: Final = (48, 80)  # tokens of the two traces that are tried
# A change of the other trace's logits that rounding explains, as a share of the largest. Dense models have none, as all
# that is summed up is the same; experts may be multiplied in another order.
_ROUNDING: Final = {torch.float32: 1e-4, torch.bfloat16: 1e-2}

Collator = Callable[[list[dict[str, list[int]]]], dict[str, Any]]


class KeepsApart(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Tries before the first step whether the model keeps packed traces apart.

    Args:
        collator: of the trainer: makes a batch of packed rows.
    """

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Called in every process, so that a model whose weights are spread over them can be tried.

        Raises:
            SpecError: it does not; nothing was trained.
        """
        bfloat16 = args.bf16 or model.dtype == torch.bfloat16
        check_apart(model, self._collator, _ROUNDING[torch.bfloat16 if bfloat16 else torch.float32])


def check_apart(model: Any, collator: Collator, rounding: float = _ROUNDING[torch.float32]) -> None:
    """Change one of two packed traces: the other's logits must stay.

    Args:
        rounding: share of the largest logit up to which a change is rounding.

    Raises:
        SpecError: they change, or the model does not take packed rows.
    """
    first, second = _LENGTHS
    text = model.config.get_text_config()
    kind, attention = type(model).__name__, getattr(text, "_attn_implementation", "")
    ids = torch.arange(first + second) * 7 % text.vocab_size
    changed = torch.cat([ids[:first].flip(0), ids[first:]])
    was_training = model.training
    model.eval()
    try:
        before, after = (_logits(model, collator, row.tolist())[first:] for row in (ids, changed))
    except TypeError as error:
        raise SpecError("packing", True, f"false with a {kind}, which takes no packed rows ({error})") from error
    finally:
        model.train(was_training)
    change = float((after - before).abs().max() / before.abs().max())
    if not change <= rounding:
        raise SpecError(
            "packing",
            True,
            f"false with a {kind} and model.attention {attention}, or another attention: packed traces see each other "
            f"(changing one moved another's logits by {change:.1%} of the largest)",
        )


def _logits(model: Any, collator: Collator, ids: Sequence[int]) -> torch.Tensor:
    """Of a row of two packed traces: float32, (tokens, vocabulary)."""
    batch = collator([{"input_ids": list(ids), "labels": list(ids), "seq_lengths": list(_LENGTHS)}])
    batch.pop("labels")
    placed = {name: part.to(model.device) if hasattr(part, "to") else part for name, part in batch.items()}
    with torch.no_grad():
        logits: torch.Tensor = model(**placed, use_cache=False).logits[0].float()
    return logits
