"""What a training leaves on disk: the model's folder, complete and readable elsewhere, and checkpoints to go on from.

A checkpoint counts once `files.json` is in it, which is written last and holds the names, sizes and digests of its
files and whose training it is. One that is cut off, changed or of another training is set aside, with a word.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lcx.context import Context
from lcx.errors import LcxError
from lcx.hub import TOKENIZER_FILES, adapter_base, folder_of, locate
from lcx.modeling.load import DTYPES, load_config, save_rope
from lcx.storage import atomic_path, read_json, sha256_file, sha256_json, write_json
from lcx.training import sharding
from lcx.training.settings import TrainSettings

CHECKPOINTS = "checkpoints"
MODEL = "model"
OWNER = "model.json"
"""Beside the checkpoints: whose they are."""
FILES = "files.json"
"""In a checkpoint, written last: names, sizes and digests of its files."""
ASIDE = "unusable-"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
CARRIED = re.compile(
    r"generation_config\.json|(licen[cs]e|notice|copying|use_policy|usage_policy).*", re.IGNORECASE
)
"""Files of a base that belong to what is trained from it, too."""


# ---- the model's folder


def save(trainer: Any, tokenizer: Any, settings: TrainSettings, out: Path) -> tuple[Path, list[str]]:
    """Save model or adapter, tokenizer and what else belongs to it in `out/model`; and what a user should know."""
    folder, notes = out / MODEL, []
    sharding.gather(trainer)
    trainer.save_model(str(folder))  # gathers sharded weights; only one process writes
    if trainer.is_world_process_zero():
        complete(folder, trainer, tokenizer, settings)
        if settings.tuning == "full" and (note := in_precision(folder, settings)):
            notes.append(note)
    return folder, notes


def complete(folder: Path, trainer: Any, tokenizer: Any, settings: TrainSettings) -> None:
    """Lay beside saved weights what they are used with: tokenizer, generation settings, licences, rope settings."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "peft_config"):  # PEFT saves nothing of the config that it was trained with
        save_rope(model.config, folder)
    lay_beside(folder, settings.model or "", tokenizer)


def lay_beside(folder: Path, spec: str, tokenizer: Any) -> None:
    """Lay beside saved weights the tokenizer, and the generation settings and licences of the model that `spec` names.

    Configurations are written so that transformers 4 and other programs read them too.
    """
    found = locate(spec)
    base = folder_of(adapter_base(found) or found)
    if tokenizer is not None:
        source = folder_of(str(getattr(tokenizer, "name_or_path", "")), TOKENIZER_FILES)
        if source is None or not (source / "tokenizer.json").is_file():
            tokenizer.save_pretrained(folder)
        if source is not None:
            for name in TOKENIZER:
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
    if base is not None:
        for file in sorted(base.iterdir()):
            if file.is_file() and CARRIED.fullmatch(file.name):
                shutil.copyfile(file, folder / file.name)
    if (file := folder / "config.json").is_file():
        config = read_json(file)
        cached = getattr(load_config(spec), "use_cache", None)  # training switches it off
        if cached is not None and "use_cache" in config:
            config["use_cache"] = cached
        write_json(file, for_other_readers(config))
    if (file := folder / "tokenizer_config.json").is_file():
        write_json(file, tokenizer_for_other_readers(read_json(file)))


def for_other_readers(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json of transformers 5 with the names of version 4 besides: rope_theta, rope_scaling, torch_dtype."""
    made = {
        key: for_other_readers(value) if isinstance(value, dict) and key.endswith("_config") else value
        for key, value in config.items()
    }
    if "dtype" in made:
        made["torch_dtype"] = made["dtype"]
    rope = made.get("rope_parameters")
    if not isinstance(rope, dict):
        return made
    layers = rope if all(isinstance(one, dict) for one in rope.values()) and rope else {"": rope}
    main = layers.get("", layers.get("full_attention"))
    if main is None:
        return made
    if "rope_theta" in main:
        made["rope_theta"] = main["rope_theta"]
    if "partial_rotary_factor" in main:
        made["partial_rotary_factor"] = main["partial_rotary_factor"]
    if "sliding_attention" in layers and "rope_theta" in layers["sliding_attention"]:
        made["rope_local_base_freq"] = layers["sliding_attention"]["rope_theta"]
    scaling = {
        key: value for key, value in main.items() if key not in ("rope_theta", "partial_rotary_factor")
    }
    if "" in layers:  # transformers 5 takes this one where both are there, so it is whole or not there
        made["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    return made


def tokenizer_for_other_readers(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json without the names that transformers 4 cannot read."""
    made = dict(config)
    if made.get("tokenizer_class") == "TokenizersBackend":
        made["tokenizer_class"] = "PreTrainedTokenizerFast"
    made.pop("backend", None)
    made.pop("is_local", None)
    if isinstance(made.get("extra_special_tokens"), list):
        extra = made.pop("extra_special_tokens")
        made["additional_special_tokens"] = [*made.get("additional_special_tokens", []), *extra]
    return made


def in_precision(folder: Path, settings: TrainSettings) -> str:
    """Bring saved weights into the precision that the settings name, the base's by default; a note where they change.

    Training computes in fp32. Weights that would overflow stay as they are, and the note says so.
    """
    own = load_config(settings.model or "").dtype
    wanted = own if settings.save_precision == "auto" else DTYPES[settings.save_precision]
    files = sorted(folder.glob("model*.safetensors"))
    if wanted not in DTYPES.values() or not files:
        return ""
    name = next(key for key, value in DTYPES.items() if value == wanted)
    size, changed = 0, False
    for file in files:
        with safe_open(file, framework="pt") as held:
            tensors = {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118 - no mapping
        cast = {key: one.to(wanted) if one.is_floating_point() else one for key, one in tensors.items()}
        changed |= any(one.dtype != cast[key].dtype for key, one in tensors.items())
        if wanted == torch.float16 and not all(bool(torch.isfinite(one).all()) for one in cast.values()):
            return "saved in fp32: some weights are too large for the fp16 of the base"
        with atomic_path(file) as place:
            save_file(cast, place, metadata={"format": "pt"})
        size += sum(one.nbytes for one in cast.values())
    config = read_json(folder / "config.json")
    for key in ("dtype", "torch_dtype"):
        config[key] = str(wanted).removeprefix("torch.")
    write_json(folder / "config.json", config)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        held_index = read_json(index)
        held_index["metadata"] = {**held_index.get("metadata", {}), "total_size": size}
        write_json(index, held_index)
    if not changed:
        return ""
    whose = "as its base is" if settings.save_precision == "auto" else "as asked"
    return f"saved in {name}, {whose}; training computed in fp32 (save_precision: fp32 keeps that)"


# ---- checkpoints


class Checkpoints(TrainerCallback):
    """Completes every checkpoint, writes its list of files last, and removes the oldest beyond the limit.

    Where a checkpoint is made the loss is logged too, so that the curve knows every step behind it.
    """

    def __init__(self, trainer: Any, tokenizer: Any, settings: TrainSettings, out: Path) -> None:
        self.trainer, self.tokenizer, self.settings, self.out = trainer, tokenizer, settings, out

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log wherever the trainer saves or stops."""
        if control.should_save or control.should_training_stop:
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the checkpoint that the trainer has just written, once every process has written its part."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if not state.is_world_process_zero:
            return
        folder = self.out / CHECKPOINTS / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        complete(folder, self.trainer, self.tokenizer, self.settings)
        seal(folder, state.global_step, training_of(self.out))
        for old in numbered(self.out)[self.settings.save_total_limit :]:
            shutil.rmtree(old, ignore_errors=True)


def seal(folder: Path, step: int, training: str) -> None:
    """Write a checkpoint's list of files: it counts from then on."""
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, sha256_file(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILES
    }
    write_json(folder / FILES, {"training": training, "step": step, "files": files})


def numbered(out: Path) -> list[Path]:
    """The checkpoints' folders of a step, the latest first."""
    found = [
        (int(number), path)
        for path in (out / CHECKPOINTS).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdecimal() and path.is_dir()
    ]
    return [path for _, path in sorted(found, reverse=True)]


def damage(folder: Path, training: str) -> str:
    """Why training cannot go on from a checkpoint; empty where it can."""
    try:
        sealed = json.loads((folder / FILES).read_text(encoding="utf-8"))
        if sealed["training"] != training or folder.name != f"{PREFIX_CHECKPOINT_DIR}-{sealed['step']}":
            return "it belongs to another training"
        files = dict(sealed["files"])
        for name, (size, digest) in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} bytes in place of {size:,}"
            if sha256_file(path) != digest:
                return f"{name} was changed"
    except FileNotFoundError:
        return f"it has no {FILES}, so it was not written to its end, or not by this version of lcx"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as bad:
        return f"{FILES} cannot be read ({type(bad).__name__})"
    return ""


def last_checkpoint(out: Path, ctx: Context, *, processes: int = 1) -> tuple[Path | None, list[str]]:
    """The latest checkpoint of a step that is whole and its own, and what is worth saying about others.

    The first process looks and tells the others. What cannot be used is renamed, so that nothing takes it again.
    """
    answer: list[Any] = [None, []]
    if ctx.rank == 0:
        notes, training, found = [], training_of(out), numbered(out)
        good: Path | None = None
        for path in found:
            why = damage(path, training)
            if not why:
                good = path
                break
            place = path.with_name(f"{ASIDE}{path.name}")
            number = 1
            while place.exists():
                number += 1
                place = path.with_name(f"{ASIDE}{path.name}-{number}")
            path.rename(place)
            notes.append(f"{path.name} cannot be used: {why}; it is kept as {place.name}")
        if notes:
            notes.append(
                f"going on from {good.name}" if good else "no checkpoint is left: training starts over"
            )
        for note in notes:
            ctx.log(note)
        answer = [str(good) if good else None, notes]
    if processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(answer)
    return Path(answer[0]) if answer[0] else None, answer[1]


def training_of(out: Path) -> str:
    """The name of the training whose checkpoints a step's folder holds."""
    try:
        return str(read_json(out / CHECKPOINTS / OWNER).get("training", ""))
    except (FileNotFoundError, LcxError, AttributeError):
        return ""


def check_checkpoints(model: Any, out: Path, ctx: Context) -> None:
    """Note what model the checkpoints of a step's folder belong to; raise LcxError where that is another one."""
    weights = {name: list(getattr(one, "ds_shape", one.shape)) for name, one in model.named_parameters()}
    digest = sha256_json([getattr(model.config, "model_type", ""), weights])[:16]
    note = out / CHECKPOINTS / OWNER
    if training_of(out) and numbered(out):
        if read_json(note).get("weights") != digest:
            raise LcxError(
                f"the checkpoints in {out / CHECKPOINTS} belong to another model",
                why="Names or shapes of its weights are not those of the model that is to be trained.",
                hint="--force starts training over; --run DIR keeps both.",
            )
    elif ctx.rank == 0:
        write_json(note, {"weights": digest, "training": secrets.token_hex(8)})


def start_over(out: Path, ctx: Context) -> None:
    """Remove what an earlier run of the step left behind."""
    if ctx.rank == 0:
        for name in (CHECKPOINTS, MODEL):
            shutil.rmtree(out / name, ignore_errors=True)


def mean_loss(points: Sequence[dict[str, float]]) -> float | None:
    """The mean loss over all steps of a training from its curve, whose points are means since the one before."""
    total, before = 0.0, 0.0
    for point in points:
        if "loss" not in point:
            continue
        total += point["loss"] * (point["step"] - before)
        before = point["step"]
    return total / before if before else None
