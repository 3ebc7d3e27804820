"""Models and tokenizers by folder, GGUF file, hub id or name: where they lie, and whether the hub can be asked.

Torch-free.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lcx import gguf
from lcx.errors import LcxError, MissingError, UsageError
from lcx.paths import cache_folder
from lcx.storage import read_json

ADAPTER = "adapter_config.json"
MODEL_FILES = ("config.json", ADAPTER)
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "config.json", ADAPTER)
MODEL_HINT = "--model PATH of a folder with config.json and weights or of a GGUF file, or --model tiny"
HUB_SECONDS = 5.0
"""How long an answer of the hub may take before it counts as out of reach."""

_TINY = re.compile(r"(tiny|tiny16|tiny8)(?::([0-9]*))?")


TINY_VERSIONS = {"tiny": 2, "tiny16": 2, "tiny8": 1}
"""Versions of the tiny models' courses (`lcx.training.curriculum`). Raise one whenever a change there, in
`lcx.modeling.tiny` or in lcx.data.stdlib alters the model: a cache keeps models by it."""


def tiny_spec(spec: str) -> tuple[str, int] | None:
    """Name and seed in `tiny`, `tiny16` or `tiny8`, with or without `:SEED`, or None for any other spec."""
    found = _TINY.fullmatch(spec)
    return (found[1], int(found[2] or 0)) if found else None


def tiny_folder(name: str, seed: int, *, cache: str | Path | None = None, version: int | None = None) -> Path:
    """The folder of the tiny model of a seed, once it is trained: below `cache` (default: lcx's own)."""
    key = f"{TINY_VERSIONS[name] if version is None else version}|{sys.version_info[:3]}|{seed}"
    place = cache_folder() / "tiny" if cache is None else Path(cache)
    return place / f"{name}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def locate(
    spec: str, *, files: Sequence[str] = MODEL_FILES, hint: str = MODEL_HINT, say: gguf.Say | None = None
) -> str:
    """An absolute folder, or a hub id whose files are cached or can be fetched.

    A tiny model is found where it was trained before, and a named one where it was fetched to. A GGUF file is its
    folder in the cache, into which it is converted here if need be: steps see to that before they begin, and `say` is
    told of it. `files` tell a model's folder from others by any one of them. Raises MissingError within seconds.
    """
    if (one := gguf.named(spec)) is not None:
        if fetched := gguf.fetched(one):
            return str(fetched.absolute())
        raise gguf.missing(one)
    if gguf.is_gguf(spec):
        return str((gguf.convert(spec, say=say) if say else gguf.convert(spec)).absolute())
    if (named := tiny_spec(spec)) is not None:
        if (trained := tiny_folder(*named)).is_dir():
            return str(trained)
        raise MissingError(
            f"the model '{spec}' was not trained on this machine yet",
            why=f"There is no {trained}.",
            hint="lcx demo trains it, in a minute; so does any step whose model it is",
        )
    if (found := here(spec, files=files, hint=hint)) is not None:
        return found
    if reason := out_of_reach():
        raise MissingError(
            f"model '{spec}' is neither a folder nor in the local hub cache, and {reason}",
            hint=f"{hint}; or, with a network: hf download {spec}",
        )
    return spec


def here(spec: str, *, files: Sequence[str] = MODEL_FILES, hint: str = MODEL_HINT) -> str | None:
    """What `locate` finds on this machine, or None for a hub id that is not cached. Asks nobody.

    Raises MissingError for what no hub could have either: a path where no model lies.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if any((folder / file).is_file() for file in files):
            return str(folder.absolute())  # a LoRA adapter records it, and is loaded from anywhere
        held = sorted(file.name for file in folder.glob("*.gguf"))
        inside = [path.parent for file in files for path in sorted(folder.glob(f"*/model/{file}"))]
        inside += [folder / "model" for file in files if (folder / "model" / file).is_file()]
        other = f"A GGUF file in it is a model: {folder / held[0]}" if held else hint
        raise MissingError(
            f"no model in the folder '{spec}'",
            why=f"It holds none of {', '.join(files)}."
            + (f" One that was trained is in {inside[0]}." if inside else ""),
            hint=f"--model {inside[0]}" if inside else other,
        )
    if folder.exists():
        raise MissingError(f"'{spec}' is a file, and neither a model's folder nor a GGUF file", hint=hint)
    is_id = spec.count("/") <= 1 and not spec.startswith((".", "/", "~"))
    if is_id and cached(spec, files):
        return spec
    if not is_id or "/" not in spec:
        raise MissingError(f"no model at '{spec}'", why="There is no such folder.", hint=hint)
    return None


def adapter_base(found: str) -> str | None:
    """The base that a located LoRA folder names, or None for anything else. Raises LcxError where it names none."""
    file = Path(found) / ADAPTER
    if not file.is_file():
        return None
    held = read_json(file)
    base = held.get("base_model_name_or_path") if isinstance(held, dict) else None
    if not base:
        raise LcxError(
            f"{file} does not name the adapter's base", hint="Write base_model_name_or_path into it."
        )
    return str(base)


def locate_base(found: str, base: str) -> str:
    """Where the base of a located LoRA folder lies. Raises MissingError, which says that it is the base, if nowhere."""
    try:
        return locate(base)
    except MissingError as bad:
        raise MissingError(
            f"the base of the LoRA folder '{found}' is not there: {bad.what}",
            why=bad.why or f"Its {ADAPTER} names '{base}'.",
            hint=f"{gguf.how_to_get(base)}Write where the base lies now as base_model_name_or_path into "
            f"{Path(found) / ADAPTER}",
        ) from bad


def load_tokenizer(spec: str | Path, *, hint: str = MODEL_HINT) -> Any:
    """The tokenizer of a model or of a folder of its own; a folder without one takes its base's, where it tells that.

    A LoRA folder names its base, a checkpoint of other trainers has a tokenizer in the folder around it, or names in
    its config what it was trained from. Raises MissingError, within seconds, for what is not there.
    """
    found = locate(str(spec), files=TOKENIZER_FILES, hint=hint)
    if (base := adapter_base(found)) and not (Path(found) / "tokenizer_config.json").is_file():
        return load_tokenizer(locate_base(found, base), hint=hint)
    if (Path(found) / "config.json").is_file() and not _has_tokenizer(Path(found)):
        return load_tokenizer(_tokenizer_of(Path(found)), hint=hint)
    from transformers import AutoTokenizer

    return pretrained(AutoTokenizer, found, files=TOKENIZER_FILES, hint=hint)


def _has_tokenizer(folder: Path) -> bool:
    names = ("*token*", "vocab.*", "*.model", "tekken.json")
    return any(True for name in names for _ in folder.glob(name))


def _tokenizer_of(folder: Path) -> str:
    """Where the tokenizer of a model's folder lies that has none. Raises MissingError where nothing tells."""
    around = folder.absolute().parent
    if folder.name.startswith("checkpoint") and _has_tokenizer(around):
        return str(around)
    config = read_json(folder / "config.json")
    named = config.get("_name_or_path") if isinstance(config, dict) else None
    if isinstance(named, str) and named and Path(named).absolute() != folder.absolute():
        with suppress(LcxError):
            found = locate(named, files=TOKENIZER_FILES)
            if not Path(found).is_dir() or _has_tokenizer(Path(found)):
                return found
    raise MissingError(
        f"the folder '{folder}' has a model and no tokenizer",
        why=f"Its config says that it was made from '{named}', which is not here."
        if named
        else "Nothing in it says what it was trained from.",
        hint=f"Copy the base's files into it: cp BASE/tokenizer* {folder}",
    )


def cached(repo: str, files: Sequence[str] = MODEL_FILES) -> str | None:
    """The path of the first of a hub repository's files that the local cache has, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        for file in files:
            if isinstance(path := try_to_load_from_cache(repo, file), str):
                return path
    except HFValidationError:
        pass
    return None


def folder_of(spec: str, files: Sequence[str] = MODEL_FILES) -> Path | None:
    """The folder on this machine with a model's files: the spec's own, the one that a GGUF file was converted into, or
    the hub cache's; None where there is none.
    """
    if (one := gguf.named(spec)) is not None:
        return gguf.fetched(one)
    if gguf.is_gguf(spec):
        return gguf.folder_of_file(spec)
    if spec and Path(spec).is_dir():
        return Path(spec)
    path = cached(spec, files) if spec else None
    return Path(path).parent if path else None


def out_of_reach() -> str:
    """Why the hub cannot be asked, or an empty string. The hub's own client would retry for minutes."""
    import urllib.error
    import urllib.request
    from threading import Thread

    from huggingface_hub import constants

    # The library reads the environment once, when it is imported; a caller may have set it since.
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    answers: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            # The user's own HF_ENDPOINT
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()  # nosec B310
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


def pretrained(
    kind: Any, spec: str, *, files: Sequence[str] = MODEL_FILES, hint: str = "", **options: Any
) -> Any:
    """`from_pretrained` of a located spec in our words: what is cached is used without asking the hub.

    A model's own code is never run, nor is the user asked whether to. Raises MissingError, UsageError for
    such code, and LcxError for what transformers does not know.
    """
    options["trust_remote_code"] = False  # None would ask on a terminal, and run it on a yes
    with _no_bars():
        try:
            if Path(spec).is_dir() or cached(spec, files):
                try:
                    return kind.from_pretrained(spec, local_files_only=True, **options)
                except OSError:
                    if Path(spec).is_dir() or out_of_reach():
                        raise
            return kind.from_pretrained(spec, **options)
        except (OSError, ImportError) as bad:
            raise MissingError(
                f"cannot load '{spec}'",
                why=_first_line(bad),
                hint=f"hf download {spec}, or {hint or MODEL_HINT}",
            ) from bad
        except (ValueError, KeyError) as bad:
            if "trust_remote_code" in str(bad):
                raise UsageError(
                    f"'{spec}' brings its own code, and lcx does not run a model's own code",
                    why="Its config names code (auto_map) for a model that transformers itself does not have.",
                    hint="Take a model, or a converted copy, that transformers has a class for.",
                ) from bad
            raise LcxError(f"transformers cannot load '{spec}'", why=_first_line(bad)) from bad


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(bad: BaseException) -> str:
    return (str(bad).strip().splitlines() or [type(bad).__name__])[0][:300]
