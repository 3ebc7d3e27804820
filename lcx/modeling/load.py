"""Models in this process: loaded from paths, hub ids and LoRA folders, in 4 bits too; devices, modes and digests."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging as hf_logging

from lcx.errors import LcxError, MissingError, UsageError
from lcx.hub import ADAPTER, adapter_base, load_tokenizer, locate, locate_base, pretrained
from lcx.modeling.rope import ORIGINAL, WINDOW, set_rope, window
from lcx.storage import read_json, write_json

__all__ = [
    "adapts_tied",
    "add_lora",
    "digest_of_weights",
    "few_threads",
    "load_config",
    "load_model",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "quiet",
    "save_rope",
    "set_rope",
    "switch_off_dropout",
    "window",
    "without_dropout",
]


# It warns about an optional kernel whenever PEFT is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UNREADABLE = (RuntimeError, SafetensorError, EOFError, pickle.UnpicklingError)
"""What files of weights raise that were cut off or changed."""
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
NAMED = 4
"""So many weights of a kind are named in an error."""
ROPE = "lcx.json"
"""Beside an adapter: what training changed in its base's config, which PEFT does not save."""
ROPE_KEYS = ("rope_parameters", WINDOW, ORIGINAL)


def load_model(
    spec: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    storage: str | None = None,
    rope_theta: float | None = None,
    rope: Mapping[str, Any] | None = None,
    attn: str = "sdpa",
    device: str = "auto",
    trainable: bool = False,
    told: Callable[[str], None] = lambda text: None,
) -> PreTrainedModel:
    """A causal language model in eval mode on one device. `spec` is `tiny[:SEED]`, a folder or a hub id.

    A LoRA folder loads its base first, with the rope settings that the adapter was trained with; `trainable`
    readies the adapter for more training. `dtype` is auto (bf16 on a GPU that has it, else fp32), fp32, bf16
    or fp16; `quantize` is None or `nf4`, whose bytes pass for numbers of `storage`. `told` hears of
    weights that the file has besides and no part of the model uses. Raises
    MissingError for what is not there, UsageError for settings that do not fit the model.
    """
    where = pick_device(device)
    found = locate(str(spec))
    base = adapter_base(found)
    config = load_config(found)
    set_rope(config, rope_theta, rope)
    options: dict[str, Any] = {
        "config": config,
        "dtype": pick_dtype(dtype, where),
        "attn_implementation": attn,
    }
    if quantize is not None:
        bits = _nf4(quantize, options["dtype"], storage)
        options |= {"quantization_config": bits, "device_map": {"": where}}
    whole = locate_base(found, base) if base else found
    model = _checked(whole, options, told)
    # ZeRO-3 has cut the weights up already, each part where it belongs
    model = (model if quantize or is_deepspeed_zero3_enabled() else model.to(where)).eval()
    if base is None:
        return model
    if quantize and trainable:  # before the adapter comes, which this would freeze
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    wrapped: Any = _with_adapter(model, found, whole, trainable)
    return wrapped.eval()


def _checked(whole: str, options: dict[str, Any], told: Callable[[str], None]) -> Any:
    """A whole model whose weights are all there and are numbers. Raises LcxError that names those that are not."""
    try:
        # Weights of another shape are reported with their names that way, like missing ones
        model, info = pretrained(
            AutoModelForCausalLM, whole, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as bad:
        raise _damaged(whole, bad) from bad
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    modules = {name.rpartition(".")[0] for name in own}
    patterns = {_numberless(name) for name in own}
    # Of what the file has besides, a head for another task is harmless; what the model's own modules would use is not
    unused = {
        key
        for key in info["unexpected_keys"]
        if _numberless(key) in patterns or key.rpartition(".")[0] in modules
    }
    odd = {f"{key} {tuple(saved)} for {tuple(wanted)}" for key, saved, wanted in info["mismatched_keys"]}
    found = {"missing": info["missing_keys"], "not used": unused, "of another shape": odd}
    if why := _listed(found):
        raise LcxError(
            f"the weights in '{whole}' are not those of its config.json",
            why=f"{why}. What is missing would be random numbers, and what is not used would be left out.",
            hint="Fetch or save the model again: all of its weights, and the config that belongs to them.",
        )
    check_numbers(model, whole)
    if left := _listed({"that no part of the model uses": set(info["unexpected_keys"])}):
        told(f"warning: the weights in '{whole}' have {left}")
    return model


def _with_adapter(model: Any, found: str, whole: str, trainable: bool) -> Any:
    """The base with the adapter of a folder on it. Raises LcxError where that is not all there, or another base's."""
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel

    wrong = f"the adapter in '{found}' does not fit its base '{whole}'"
    hint = f"Write into {Path(found) / ADAPTER} the base that it was trained on, or copy the whole adapter again."
    if not any((Path(found) / file).is_file() for file in ADAPTER_WEIGHTS):
        raise MissingError(
            f"the LoRA folder '{found}' has no weights",
            why=f"It holds neither {' nor '.join(ADAPTER_WEIGHTS)}.",
            hint="Copy the whole folder again, or train the adapter again.",
        )
    known = frozenset(id(weight) for weight in (*model.parameters(), *model.buffers()))
    try:
        config = PeftConfig.from_pretrained(found)
        config.inference_mode = not trainable
        kind = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)
        wrapped = kind(model, config)
        mapping = getattr(model, "_checkpoint_conversion_mapping", {})
        loaded = wrapped.load_adapter(found, "default", is_trainable=trainable, key_mapping=mapping)
    except torch.OutOfMemoryError:
        raise
    except KeyError as bad:  # a module that was trained whole
        raise LcxError(wrong, why=_listed({"missing": [str(bad.args[0])]}) + ".", hint=hint) from bad
    except ValueError as bad:  # none of the target modules is there
        raise LcxError(wrong, why=_first(bad), hint=hint) from bad
    except UNREADABLE as bad:
        if "size mismatch" in str(bad):
            lines = [line.strip() for line in str(bad).splitlines() if "size mismatch" in line]
            raise LcxError(
                wrong, why=f"{len(lines):,} weights are of another shape: {lines[0]}", hint=hint
            ) from bad
        raise _damaged(found, bad) from bad
    if why := _listed({"missing": loaded.missing_keys, "for nothing in the base": loaded.unexpected_keys}):
        raise LcxError(wrong, why=f"{why}.", hint=hint)
    check_numbers(wrapped, found, known=known)
    return wrapped


def _damaged(folder: str, bad: BaseException) -> LcxError:
    return LcxError(
        f"the weights in '{folder}' cannot be read",
        why=f"{type(bad).__name__}: {_first(bad)}",
        hint="A file was cut off or damaged: fetch, copy or train it again.",
    )


def _first(bad: BaseException) -> str:
    return (str(bad).strip().splitlines() or [type(bad).__name__])[0][:300]


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _listed(found: Mapping[str, Iterable[str]]) -> str:
    """Names by what is wrong with them, a few of each and how many there are; empty where nothing is."""
    parts = []
    for what, names in found.items():
        if held := sorted(names):
            more = f" and {len(held) - NAMED:,} more" if len(held) > NAMED else ""
            parts.append(f"{len(held):,} {what}: {', '.join(held[:NAMED])}{more}")
    return "; ".join(parts)


def check_numbers(model: Any, folder: str, *, known: frozenset[int] = frozenset()) -> None:
    """Raise LcxError where weights are NaN or infinite, but for those whose `id` is known to be good."""
    if (
        os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "").lower() == "true"
        and os.environ.get("LOCAL_RANK", "0") != "0"
    ):
        return  # the first process sends the weights later
    bad = []
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if id(weight) in known:
            continue
        # 4-bit numbers may pass for floats: the scales beside them tell
        state = getattr(weight, "quant_state", None)
        nested = getattr(state, "state2", None)
        values = (
            [weight]
            if state is None
            else [state.absmax, getattr(state, "offset", None), getattr(nested, "absmax", None)]
        )
        for value in values:
            value = getattr(value, "ds_tensor", value)  # this process's part under ZeRO-3
            if value is None or not value.is_floating_point() or not value.numel() or value.is_meta:
                continue
            value = value.detach()
            if value.dtype.itemsize == 1:
                value = value.float()  # 8-bit floats have no order
            low, high = torch.aminmax(value)
            if not (torch.isfinite(low) & torch.isfinite(high)):
                bad.append(name)
                break
    if bad:
        half = " A weight beyond 65,504 is infinite in fp16." if model.dtype is torch.float16 else ""
        raise LcxError(
            f"weights in '{folder}' are not numbers",
            why=f"{_listed({'with NaN or infinity': bad})}.{half}",
            hint="Take an earlier checkpoint, or fetch the model again"
            + ("; or precision bf16." if half else "."),
        )


def load_config(spec: str | Path) -> Any:
    """A model's configuration alone; a LoRA folder's is its base's as it was trained. Errors as `load_model`."""
    found = locate(str(spec))
    base = adapter_base(found)
    if base is None:
        return pretrained(AutoConfig, found)
    whole = locate_base(found, base)
    if adapter_base(whole):
        raise UsageError(
            f"the base of the LoRA folder '{spec}' is a LoRA folder too",
            why=f"'{base}' holds an adapter, and adapters are not stacked.",
            hint="Set base_model_name_or_path in adapter_config.json to a whole model.",
        )
    config = pretrained(AutoConfig, whole)
    file = Path(found) / ROPE
    for key, value in (read_json(file) if file.is_file() else {}).items():
        if key in ROPE_KEYS:
            setattr(config, key, value)
    return config


def save_rope(config: Any, folder: Path) -> None:
    """Note a model's rope settings and window beside its adapter, where `load_config` reads them."""
    held = {key: getattr(config, key, None) for key in ROPE_KEYS}
    write_json(folder / ROPE, {key: value for key, value in held.items() if value is not None})


def add_lora(
    model: PreTrainedModel,
    r: int = 32,
    alpha: int = 64,
    dropout: float = 0.0,
    targets: Sequence[str] = ("all-linear",),
    *,
    save: Sequence[str] = (),
) -> Any:
    """Wrap a model in LoRA adapters (fp32, trainable). `save` names modules that are trained whole.

    4-bit models are made ready for training. Raises UsageError where a target names no module of the
    model, or one whose weights are tied to another's.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear" if tuple(targets) == ("all-linear",) else list(targets),
        modules_to_save=list(save) or None,
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as bad:
        raise UsageError(
            f"LoRA does not fit this model: {bad}", hint="Set lora_targets to names of its layers."
        ) from bad
    if name := adapts_tied(wrapped):
        raise UsageError(
            f"LoRA on {name} of this model would be another model once it is merged",
            why="Embedding and output head share their weights: an adapter changes one of the two, merging both.",
            hint="--set train.lora_whole=embed_tokens trains the embedding itself; or leave it out of lora_targets.",
        )
    return wrapped


def adapts_tied(model: Any) -> str:
    """The embedding or output head that a LoRA adapter is on, where the two share their weights; else empty."""
    base = model.get_base_model()
    pair = {"embed_tokens": base.get_input_embeddings(), "lm_head": base.get_output_embeddings()}
    weights = [getattr(getattr(one, "base_layer", one), "weight", None) for one in pair.values()]
    if weights[0] is None or weights[0] is not weights[1]:
        return ""
    return next((name for name, one in pair.items() if hasattr(one, "lora_A")), "")


def pick_device(device: str = "auto") -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device; each local process has a GPU of its own.

    Raises MissingError where CUDA is asked for and not there.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MissingError(
            f"device '{device}': this PyTorch sees no GPU",
            why=f"torch {torch.__version__}; CUDA {torch.version.cuda or 'not built in'}.",
            hint="Leave the device at auto, or install a CUDA build: pip install torch",
        )
    if ":" in device:
        return torch.device(device)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """`auto`, `fp32`, `bf16` or `fp16` as a torch dtype for a device."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    if dtype not in DTYPES:
        raise UsageError(f"unknown precision '{dtype}'", hint=f"Choose one of auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _nf4(quantize: str, compute: torch.dtype, storage: str | None) -> Any:
    if quantize != "nf4":
        raise UsageError(f"unknown quantisation '{quantize}'", hint="Choose nf4, or none.")
    if find_spec("bitsandbytes") is None:
        raise MissingError("4-bit weights need bitsandbytes", hint="pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=DTYPES[storage] if storage else torch.uint8,
    )


def switch_off_dropout(model: Any) -> None:
    """Put a model in eval mode, but for 4-bit layers on a CPU.

    In eval mode those repack their weights for a kernel that refuses small matrices, and that no gradient
    passes through; they have no dropout of their own.
    """
    model.eval()
    for module in model.modules():
        kind = type(module)  # PEFT's wrapper has that name too, and a dropout inside
        own = kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes")
        if own and module.weight.device.type == "cpu":
            module.training = True


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """`switch_off_dropout` inside the block; the whole model is as it was after it."""
    was_training = model.training
    switch_off_dropout(model)
    try:
        yield
    finally:
        model.train(was_training)


SMALL = 1_000_000
"""A model of fewer parameters runs on one thread of the CPU."""


@contextmanager
def few_threads(model: Any) -> Iterator[None]:
    """Let a small model on the CPU use one thread for the time of the block; leave others alone.

    Its matrices are too small to share: two threads gain little on a quiet machine, and when another process wants a
    core they wait for each other in every layer (measured: 2.4 s a step instead of 0.09 s). With one, sums do not
    depend on the number of cores either.
    """
    small = model.device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def digest_of_weights(model: Any) -> str:
    """A hash of a few numbers of every parameter: training changes it, and it costs nothing to read."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        few = flat[:: max(1, flat.numel() // 8)][:8].to("cpu", torch.float32)
        digest.update(name.encode() + few.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' own logs, warnings and bars inside the block; ours say what matters."""
    level = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    names = ("accelerate", "peft", "trl", "bitsandbytes", "datasets", "torch.distributed")
    levels = {name: logging.getLogger(name).level for name in names}
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
