"""Compiles a model layer by layer.

Layers alike share one compilation, so it takes the time of one layer. What surrounds them is left alone: TRL's head
works in chunks that a compiler would take apart.
"""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from gen_service.errors import SpecError


def compile_layers(model: Any, backend: str = "inductor") -> int:
    """Have torch compile each layer at its first call; the names of the weights stay.

    Args:
        backend: torch's name of the compiler.

    Returns:
        How many layers.

    Raises:
        SpecError: the model has none that transformers marks as such.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise SpecError("compile", True, f"false with a {type(model).__name__}: its layers are not marked as such")
    for layer in layers:
        layer.compile(backend=backend)
    return len(layers)
