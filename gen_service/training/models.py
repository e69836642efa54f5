"""The model and the tokenizer that training starts from, and the result as servers load it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import deepspeed

from gen_service.errors import SpecError, StorageError
from gen_service.training_settings import LoraSettings, ModelSettings

_WEIGHTS = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


def has_bfloat16() -> bool:
    """Whether this machine's device computes in bfloat16 faster than in float32: a GPU that knows it."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer, with the chat template that the settings name.

    Raises:
        SpecError: there is none at the model's path.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(_path(settings), revision=settings.revision)
    except (OSError, ValueError) as error:
        raise SpecError("model.path", settings.path, f"a model with a tokenizer ({_first_line(error)})") from error
    if settings.chat_template is not None:
        tokenizer.chat_template = settings.chat_template.read_text(encoding="utf-8")
    return tokenizer


def load_config(settings: ModelSettings) -> Any:
    """The model's config.

    Raises:
        SpecError: there is none at the model's path.
    """
    try:
        return AutoConfig.from_pretrained(_path(settings), revision=settings.revision)
    except (OSError, ValueError) as error:
        raise SpecError("model.path", settings.path, f"a folder or hub id of a model ({_first_line(error)})") from error


def check_attention(settings: ModelSettings) -> None:
    """Make the model without its weights, to find out early whether its attention is there.

    Raises:
        SpecError: it is not, or cannot be trained through on this machine.
    """
    if settings.attention == "flex_attention" and not torch.cuda.is_available():
        raise SpecError("model.attention", settings.attention, "sdpa: on a CPU torch's flex attention has no backward")
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(load_config(settings), attn_implementation=settings.attention)
    except (ImportError, ValueError) as error:
        raise SpecError("model.attention", settings.attention, f"one that is there ({_first_line(error)})") from error


def load_model(settings: ModelSettings) -> Any:
    """The model with its weights in the dtype that is trained, on the CPU: the trainer places it.

    `auto` is float32, in which small updates are not lost; arithmetic is bfloat16 then where the device has it.

    Raises:
        SpecError: the weights cannot be loaded.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            _path(settings),
            revision=settings.revision,
            dtype=_WEIGHTS[settings.dtype],
            attn_implementation=settings.attention,
        )
    except ImportError as error:
        raise SpecError(
            "model.attention", settings.attention, f"one that is installed ({_first_line(error)})"
        ) from error
    except (OSError, ValueError) as error:
        field = "model.attention" if "attn_implementation" in str(error) else "model.path"
        value = settings.attention if field == "model.attention" else settings.path
        raise SpecError(field, value, f"what transformers can load ({_first_line(error)})") from error


def lora_config(settings: LoraSettings | None) -> LoraConfig | None:
    """PEFT's settings of a LoRA; None without one."""
    if settings is None:
        return None
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def save_result(
    trained: Path, settings: ModelSettings, tokenizer: Any, end_of_turn: int, target: Path, *, merge: bool
) -> None:
    """Make of a saved model what servers load: weights in the dtype of the model it began as, tokenizer, end of turn.

    The folder appears whole or not at all. One process calls this.

    Args:
        trained: a folder that the trainer saved, of a whole model, or of an adapter.
        end_of_turn: a server must stop there, whatever the model it began as stopped at.
        merge: put an adapter's matrices into the weights; else the folder holds the adapter alone.

    Raises:
        StorageError: the tokenizer that was saved reads otherwise than the one trained with.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if settings.lora is not None and not merge:
        partial.mkdir(parents=True)
        for file in trained.glob("adapter_*"):  # a checkpoint holds the optimiser's state, too
            shutil.copyfile(file, partial / file.name)
    else:
        model = _merged(trained, settings) if settings.lora is not None else _loaded(trained)
        model = model.to(getattr(load_config(settings), "dtype", None) or torch.float32)
        stops = _as_list(model.generation_config.eos_token_id)
        model.generation_config.eos_token_id = sorted({*stops, end_of_turn})
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _check_tokenizer(tokenizer, partial)
    _swap(partial, target)


def save_merged(adapter: Path, target: Path, settings: ModelSettings) -> None:
    """Save a LoRA's adapter as whole weights, in float32, in the CPU's memory.

    The model that is trained is not touched: putting the matrices into its weights and taking them out again would
    leave rounding errors behind each time.

    Args:
        adapter: a folder that the trainer saved.
        settings: of the model that the adapter belongs to.
    """
    with torch.random.fork_rng(devices=[]):  # PEFT draws matrices before it loads these
        _merged(adapter, settings).save_pretrained(target)


def _merged(adapter: Path, settings: ModelSettings) -> Any:
    with _alone():
        start = load_model(settings.model_copy(update={"dtype": "float32", "attention": "eager"}))
        return PeftModel.from_pretrained(start, adapter).merge_and_unload()


def _loaded(folder: Path) -> Any:
    with _alone():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@contextmanager
def _alone() -> Iterator[None]:
    """Load in this process alone: where ZeRO 3 spreads weights, transformers would wait for all others to load, too."""
    running = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = running


def _as_list(stops: int | Sequence[int] | None) -> list[int]:
    if stops is None:
        return []
    return [stops] if isinstance(stops, int) else list(stops)


def _check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """A tokenizer may be read back as another class, by the model's type, and then tokenise otherwise.

    Servers would score nonsense with it, without any error (seen with a tokenizer of one's own under `qwen2`).
    """
    probe = tokenizer.apply_chat_template([{"role": "user", "content": "Is 1 + 1 = 2?\n\n  Yes\t."}], tokenize=False)
    read = AutoTokenizer.from_pretrained(folder)
    if read(probe)["input_ids"] != tokenizer(probe)["input_ids"]:
        raise StorageError(f"{folder}: the tokenizer was saved as {type(read).__name__}, which reads otherwise")


def _swap(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _path(settings: ModelSettings) -> str:
    folder = Path(settings.path).expanduser()
    return str(folder) if folder.is_dir() else settings.path


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
