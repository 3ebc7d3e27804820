"""Loading models and tokenizers: paths, hub ids, LoRA folders, 4-bit weights, and the built-in tiny model."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from lcx.errors import LcxError, MissingError, UsageError

# It warns about an optional kernel whenever PEFT is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ADAPTER = "adapter_config.json"
HUB_SECONDS = 5.0
"""How long an answer of the hub may take before it counts as out of reach."""


def load_model(
    spec: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    rope_theta: float | None = None,
    rope: Mapping[str, Any] | None = None,
    attn: str = "sdpa",
    device: str = "auto",
    trainable: bool = False,
) -> PreTrainedModel:
    """A causal language model in eval mode on one device. `spec` is `tiny[:SEED]`, a folder or a hub id.

    A folder with a LoRA adapter loads its base first; `trainable` leaves the adapter's weights trainable.
    `dtype` is auto (bf16 on a GPU that has it, else fp32), fp32, bf16 or fp16; `quantize` is None or `nf4`.
    Raises MissingError for what is not there, UsageError for settings that do not fit the model.
    """
    where = pick_device(device)
    found = locate(str(spec))
    adapter = Path(found) / ADAPTER
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        model = load_model(
            base, dtype=dtype, quantize=quantize, rope_theta=rope_theta, rope=rope, attn=attn, device=device
        )
        from peft import PeftModel

        wrapped: Any = PeftModel.from_pretrained(model, found, is_trainable=trainable)
        return wrapped.eval()
    config = _pretrained(AutoConfig, found)
    set_rope(config, rope_theta, rope)
    options: dict[str, Any] = {
        "config": config,
        "dtype": pick_dtype(dtype, where),
        "attn_implementation": attn,
    }
    if quantize is not None:
        options |= {"quantization_config": _nf4(quantize, options["dtype"]), "device_map": {"": where}}
    model = _pretrained(AutoModelForCausalLM, found, **options)
    return (model if quantize else model.to(where)).eval()


def load_tokenizer(spec: str | Path) -> Any:
    """The tokenizer of a model; a LoRA folder without one takes its base's. Errors as `load_model`."""
    found = locate(str(spec))
    folder = Path(found)
    if (folder / ADAPTER).is_file() and not (folder / "tokenizer_config.json").is_file():
        return load_tokenizer(
            json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
        )
    return _pretrained(AutoTokenizer, found)


def load_config(spec: str | Path) -> Any:
    """A model's configuration alone; a LoRA folder's is its base's. Errors as `load_model`."""
    found = locate(str(spec))
    adapter = Path(found) / ADAPTER
    if adapter.is_file():
        return load_config(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    return _pretrained(AutoConfig, found)


def window(config: Any) -> int:
    """Positions that the model was made for, in tokens. Raises UsageError where its config does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    if not limit:
        raise UsageError(
            f"the config of model type '{getattr(config, 'model_type', '?')}' names no window",
            why="It has no max_position_embeddings.",
        )
    return int(limit)


def set_rope(config: Any, theta: float | None = None, rope: Mapping[str, Any] | None = None) -> None:
    """Merge rotary settings into a loaded config: the rest of its own parameters stays.

    `rope` may hold rope_type, factor and so on, and `max_position_embeddings`, which without being given is
    factor * original_max_position_embeddings. Raises UsageError where the model has no single set of
    parameters.
    """
    if theta is None and not rope:
        return
    current = getattr(config, "rope_parameters", None)
    if not isinstance(current, dict) or any(isinstance(value, dict) for value in current.values()):
        raise UsageError(
            f"rope settings cannot be changed for model type '{getattr(config, 'model_type', '?')}'",
            why="It has none, or other ones for other layers.",
        )
    new = {**current, **(rope or {})}
    if theta is not None:
        new["rope_theta"] = float(theta)
    wanted = new.pop("max_position_embeddings", None)
    if wanted is None and rope and "factor" in rope:
        original = new.setdefault("original_max_position_embeddings", config.max_position_embeddings)
        wanted = int(original * float(rope["factor"]))
    config.rope_parameters = new
    if wanted is not None:
        config.max_position_embeddings = int(wanted)


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

    4-bit models are made ready for training. Raises UsageError where a target names no module of the model.
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
        return get_peft_model(model, config)
    except ValueError as bad:
        raise UsageError(
            f"LoRA does not fit this model: {bad}", hint="Set lora_targets to names of its layers."
        ) from bad


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


def locate(spec: str) -> str:
    """A folder, or a hub id whose files are cached or can be fetched. Raises MissingError within seconds."""
    name, _, seed = spec.partition(":")
    if name == "tiny" and (not seed or seed.isdigit()):
        from lcx.paths import cache_folder
        from lcx.training.curriculum import load_or_train_base

        return str(load_or_train_base(int(seed or 0), cache_folder() / "tiny"))
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file() or (folder / ADAPTER).is_file():
            return str(folder)
        raise MissingError(
            f"no model in the folder '{spec}'", why=f"It holds neither config.json nor {ADAPTER}."
        )
    hint = "--model PATH of a folder with config.json and weights, or --model tiny"
    if folder.exists():
        raise MissingError(f"'{spec}' is a file, not a model's folder", hint=hint)
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        if "/" in spec or spec.startswith(("~", ".")) or _cached(spec) is None:
            raise MissingError(f"no model at '{spec}'", why="There is no such folder.", hint=hint)
        return spec
    if _cached(spec) is None and (reason := _hub_out_of_reach()):
        raise MissingError(
            f"model '{spec}' is neither a folder nor in the local hub cache, and {reason}",
            hint=f"{hint}; or, with a network: hf download {spec}",
        )
    return spec


def _cached(repo: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        for file in ("config.json", ADAPTER):
            if isinstance(path := try_to_load_from_cache(repo, file), str):
                return path
    except HFValidationError:
        pass
    return None


def _hub_out_of_reach() -> str:
    """Why the hub cannot be asked, or an empty string. The hub's own client would retry for minutes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # any status is an answer
        except (OSError, ValueError) as bad:
            answers.append(str(getattr(bad, "reason", bad)))
            return
        answers.append("")

    worker = Thread(target=ask, daemon=True)  # name resolution knows no timeout of its own
    worker.start()
    worker.join(HUB_SECONDS)
    reason = answers[0] if answers else f"no answer in {HUB_SECONDS:.0f} s"
    return f"{constants.ENDPOINT} cannot be reached ({reason})" if reason else ""


def _pretrained(kind: Any, spec: str, **options: Any) -> Any:
    """`from_pretrained` in our words: what is cached is used without asking the hub."""
    quietly = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        if Path(spec).is_dir() or _cached(spec):
            try:
                return kind.from_pretrained(spec, local_files_only=True, **options)
            except OSError:
                if Path(spec).is_dir() or _hub_out_of_reach():
                    raise
        return kind.from_pretrained(spec, **options)
    except OSError as bad:
        raise MissingError(
            f"cannot load '{spec}'",
            why=_first_line(bad),
            hint=f"hf download {spec}, or --model PATH of a whole model",
        ) from bad
    except (ValueError, KeyError) as bad:
        if "trust_remote_code" in str(bad):
            raise UsageError(
                f"'{spec}' brings its own code, which lcx does not run", why=_first_line(bad)
            ) from bad
        raise LcxError(f"transformers cannot load '{spec}'", why=_first_line(bad)) from bad
    finally:
        if quietly:
            hf_logging.enable_progress_bar()


def _first_line(bad: BaseException) -> str:
    return (str(bad).strip().splitlines() or [type(bad).__name__])[0][:300]


def _nf4(quantize: str, compute: torch.dtype) -> Any:
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
    )
