"""A model's config.json by folder, hub id or `tiny`: from disk, the hub cache, or fetched on its own. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
SHAPE_HINT = (
    "--shape llama3-8b, or --shape layers=32,hidden=4096,heads=32,kv_heads=8,intermediate=14336,vocab=128256"
)


def read_config(spec: str, *, network: bool = True) -> dict[str, Any]:
    """The config of a model; a LoRA folder's is its base's. No weights are looked at.

    Raises MissingError, within seconds, for what is neither on this machine nor (with `network`) on the hub,
    and LcxError for a file that is no config.
    """
    return _read(spec, network, ())


def _read(spec: str, network: bool, seen: tuple[str, ...]) -> dict[str, Any]:
    if spec in seen:
        raise UsageError(f"LoRA folders name each other as their base: {' -> '.join((*seen, spec))}")
    path = _find(spec, network)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as bad:
        raise LcxError(f"{path} cannot be read as JSON", why=str(bad)) from None
    if not isinstance(found, dict):
        raise LcxError(f"{path} is no model's config", why="It does not hold a mapping.")
    if path.name == ADAPTER:
        base = found.get("base_model_name_or_path")
        if not base:
            raise LcxError(f"{path} does not name the adapter's base")
        return _read(str(base), network, (*seen, spec))
    return found


def _find(spec: str, network: bool) -> Path:
    from lcx.hub import cached, tiny_spec

    if (named := tiny_spec(spec)) is not None:
        return _tiny(*named)
    folder = Path(spec).expanduser()
    if folder.is_file() and folder.name == CONFIG:
        return folder
    if folder.is_dir():
        for name in (CONFIG, ADAPTER):
            if (folder / name).is_file():
                return folder / name
        raise MissingError(f"no {CONFIG} in the folder '{spec}'", hint=SHAPE_HINT)
    is_id = spec.count("/") == 1 and not spec.startswith((".", "/", "~"))
    if found := cached(spec, (CONFIG, ADAPTER)) if spec.count("/") <= 1 else None:
        return Path(found)
    if not is_id:
        raise MissingError(
            f"no model at '{spec}'",
            why="There is no such folder, and no hub id has that form.",
            hint=SHAPE_HINT,
        )
    if not network:
        raise MissingError(
            f"the config of '{spec}' is not on this machine", hint=f"lcx forecast --model {spec}"
        )
    return _fetch(spec)


def _tiny(name: str, seed: int) -> Path:
    """The config of a tiny model that was trained on this machine; seeds do not change its shape."""
    from lcx.paths import cache_folder

    for pattern in (f"{name}-{seed}-*/{CONFIG}", f"{name}-*/{CONFIG}"):
        if found := sorted((cache_folder() / "tiny").glob(pattern)):
            return found[-1]
    raise MissingError(
        f"the model '{name}' was not trained on this machine yet",
        why="Its vocabulary follows from this Python's standard library.",
        hint="lcx demo trains it, in a minute; or give a shape: --shape layers=2,hidden=64,heads=2,"
        "intermediate=128,vocab=1000",
    )


def _fetch(spec: str) -> Path:
    from lcx.hub import out_of_reach

    if reason := out_of_reach():
        raise MissingError(
            f"the config of '{spec}' is neither in a folder nor in the local hub cache, and {reason}",
            hint=f"{SHAPE_HINT}; or, with a network: hf download {spec} {CONFIG}",
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        for name in (CONFIG, ADAPTER):
            try:
                return Path(hf_hub_download(spec, name))
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, HFValidationError, OSError) as bad:
        first = (str(bad).strip().splitlines() or [type(bad).__name__])[0][:300]
        raise MissingError(
            f"the hub does not give the config of '{spec}'",
            why=first,
            hint=f"Check the id, or log in for a gated model: hf auth login; or {SHAPE_HINT}",
        ) from bad
    raise MissingError(f"'{spec}' on the hub has no {CONFIG}", hint=SHAPE_HINT)


def is_adapter(spec: str) -> bool:
    """Whether a spec is a folder that holds a LoRA adapter."""
    return (Path(spec).expanduser() / ADAPTER).is_file()
