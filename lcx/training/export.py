"""A trained model as a folder that other programs load: adapter merged, tokenizer, chat template, generation settings,
and a model card that says what it was made of and how it did.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lcx.errors import MissingError, UsageError, suggestion
from lcx.gguf import ORIGIN, named
from lcx.hub import adapter_base, folder_of, load_tokenizer, locate, out_of_reach
from lcx.modeling.load import DTYPES, check_numbers, load_config, load_model, quiet
from lcx.paths import runs_folder, slug
from lcx.storage import TEMPORARY, disk_errors, make_folder, process_runs, read_json, write_text
from lcx.training.saving import MODEL, lay_beside

CARD = "README.md"


@dataclass(frozen=True)
class Found:
    """A model to be exported: its spec, and where a run made it the run's folder and the step's id."""

    spec: str
    run: Path | None = None
    step: str = ""

    @property
    def manifest(self) -> dict[str, Any]:
        """The run's manifest; empty for a model from elsewhere."""
        return dict(read_json(self.run / "manifest.json")) if self.run else {}

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The run's steps by their keys."""
        return dict(self.manifest.get("steps") or {})


def find(source: str, step: str = "") -> Found:
    """The model of a run (of its last train step, or the one named), of a step's folder, or of any other spec.

    Raises MissingError where a run has no trained model, UsageError for a step that it has not.
    """
    path = Path(source).expanduser()
    if not path.exists() and (runs_folder() / source).is_dir():
        path = runs_folder() / source
    if (path / "manifest.json").is_file():
        steps = read_json(path / "manifest.json").get("steps") or {}
        trained = [key for key, one in steps.items() if one.get("stage") == "train"]
        done = [key for key in trained if steps[key].get("state") == "done" and (path / key / MODEL).is_dir()]
        if step and step not in trained:
            near = suggestion(step, trained)
            raise UsageError(
                f"the run {path} has no train step '{step}'. {near}".rstrip(),
                hint=f"--step with one of {', '.join(trained)}" if trained else "lcx train makes one.",
            )
        if not done or (step and step not in done):
            raise MissingError(
                f"the run {path} has no trained model{f' of the step {step}' if step else ''} yet",
                why="; ".join(f"{key} is {steps[key].get('state')}" for key in trained),
                hint=f"lcx train --recipe {read_json(path / 'manifest.json').get('recipe')} --run {path}",
            )
        key = step or done[-1]
        return Found(str(path / key / MODEL), path, key)
    if step:
        raise UsageError(f"--step goes with a run, and '{source}' is none")
    for folder in (path / MODEL, path):
        if folder.name == MODEL and folder.is_dir() and (folder.parents[1] / "manifest.json").is_file():
            return Found(str(folder), folder.parents[1], folder.parent.name)
    return Found(source)


def export_model(
    found: Found,
    target: str | Path,
    *,
    dtype: str = "auto",
    push: str = "",
    force: bool = False,
    evaluations: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a whole model into a folder, which appears when it is complete; with `push` also to the hub.

    An adapter is merged into its base, in fp32 whatever `dtype` is: auto (the base's), fp32, bf16 or fp16. Raises
    UsageError where the folder is in use, MissingError for a model, or a hub, that is not there. `evaluations` are
    blocks for the model card.
    """
    folder = Path(target).expanduser()
    if folder.exists() and not force and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{target}' is there already", hint="--force overwrites it; or another --to.")
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"unknown precision '{dtype}'", hint=f"Choose one of auto, {', '.join(DTYPES)}.")
    if push and (reason := out_of_reach()):
        raise MissingError(
            f"nothing can be pushed: {reason}", hint="Leave --push out, and push the folder later."
        )
    place = locate(found.spec, say=say)
    base = adapter_base(place)
    own = load_config(place).dtype
    wanted = DTYPES[dtype] if dtype != "auto" else own if own in DTYPES.values() else torch.float32
    with quiet():
        model: Any = load_model(place, dtype=torch.float32 if base else wanted, device="cpu")
        if base:
            say(f"merging the adapter into {base}")
            model = model.merge_and_unload()
        model = model.to(wanted)
        check_numbers(model, found.spec)
        tokenizer = load_tokenizer(place)
        with _appearing(folder, force) as temporary:
            model.save_pretrained(temporary)
            lay_beside(temporary, place, tokenizer)
            write_text(temporary / CARD, card(found, place, model, wanted, evaluations))
    if push:
        _push(folder, push)
    return folder


@contextmanager
def _appearing(folder: Path, force: bool) -> Iterator[Path]:
    """A folder beside another, which takes its place once the block has ended well.

    What killed exports of the same folder left beside it is removed: what was half written before the block, and the
    folders that were put by only once there is a whole one in their place.
    """
    make_folder(folder.parent)
    mark = f"{slug(platform.node())}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
    temporary, old = (folder.with_name(f"{_beside(folder)}{kind}{mark}") for kind in ("", "old-"))
    _remove_left(folder, "")
    try:
        with disk_errors(temporary):
            temporary.mkdir()
            yield temporary
            if force and folder.exists():
                os.replace(folder, old)
            os.replace(temporary, folder)
        _remove_left(folder, "old-")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _beside(folder: Path) -> str:
    """How the names of an export's temporary folders begin."""
    return f".{folder.name[:100]}."


def _remove_left(folder: Path, kind: str) -> None:
    """Remove the temporary folders of exports of this machine whose process has ended."""
    name = re.escape(_beside(folder) + kind + slug(platform.node()))
    for left in folder.parent.iterdir():
        made = re.fullmatch(rf"{name}-(\d+)-[0-9a-f]{{8}}{re.escape(TEMPORARY)}", left.name)
        if made and not process_runs(int(made[1])):
            shutil.rmtree(left, ignore_errors=True)


def _push(folder: Path, repo: str) -> None:
    """Push a folder to the hub, into a repository that is made private where it is not there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True, private=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as bad:
        first = (str(bad).strip().splitlines() or [type(bad).__name__])[0][:300]
        raise MissingError(
            f"the model could not be pushed to '{repo}'",
            why=f"{first}. The folder {folder} is whole.",
            hint=f"hf auth login, and then: hf upload {repo} {folder}",
        ) from bad


# ---- the card


def card(found: Found, place: str, model: Any, dtype: torch.dtype, evaluations: Sequence[str] = ()) -> str:
    """The model card: base and licence, recipe, data, settings of the training, and blocks of evaluations."""
    base = adapter_base(place) or place
    records = found.records
    settings = dict((records.get(found.step, {}).get("fingerprint") or {}).get("settings") or {})
    given = str(settings.get("model") or "")
    name, licence = _described(_first_base(given or base, records))
    title = f"{found.run.name}, step {found.step}" if found.run else slug(found.spec)
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- lcx",
        "- long-context",
    ]
    head += [f"license: {licence}"] if licence else []
    kind = f"{model.config.model_type}, {sum(p.numel() for p in model.parameters()) / 1e6:,.0f}M parameters"
    lines = [*head, "---", "", f"# {title}", "", f"{kind}, in {str(dtype).removeprefix('torch.')}."]
    lines += ["", f"- base: {name}", f"- licence: {licence or 'not known; it is that of the base'}"]
    window = getattr(model.config, "max_position_embeddings", None)
    lines += [f"- window: {window:,} tokens"] if isinstance(window, int) else []
    if not found.run:
        return "\n".join([*lines, ""])
    lines.append(f"- recipe: {found.manifest.get('recipe')}, made with lcx")
    lines += ["", "## Data and training", ""]
    for key, record in records.items():
        if record.get("stage") in ("synth", "score", "train") and record.get("state") == "done":
            counts = ", ".join(f"{number:,} {what}" for what, number in (record.get("counts") or {}).items())
            lines.append(f"- {record['stage']} `{key}` (method {record.get('method')}): {counts or 'done'}")
    if settings:
        shown = {
            key: value for key, value in settings.items() if key not in ("model", "input") and _said(value)
        }
        lines += ["", "```yaml", *(f"{key}: {_plain(value)}" for key, value in shown.items()), "```"]
    return "\n".join([*lines, "", *evaluations])


def _said(value: Any) -> bool:
    return value not in (None, "", {}, [], False)


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _first_base(spec: str, records: Mapping[str, Any]) -> str:
    """The model with which a chain of train steps began."""
    seen: set[str] = set()
    while spec.startswith("step:") and spec not in seen:
        seen.add(spec)
        made = (records.get(spec.removeprefix("step:"), {}).get("fingerprint") or {}).get("settings") or {}
        spec = str(made.get("model") or spec)
    return spec


def _described(spec: str) -> tuple[str, str]:
    """What a card calls a base, and its licence where it is known."""
    if (one := named(spec)) is not None:
        return f"{one.about} ({one.name})", one.licence.lower()
    folder = folder_of(spec)
    if folder is None:
        return slug(spec), ""
    if (folder / ORIGIN).is_file():
        origin = read_json(folder / ORIGIN)
        return f"{origin.get('name') or origin.get('file')} ({origin.get('file')})", str(
            origin.get("licence") or ""
        )
    name = spec if not folder.samefile(spec) else slug(spec)
    return name, _licence_of(folder / CARD)


def _licence_of(card: Path) -> str:
    """The licence that a card's front matter names; empty where there is none."""
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return ""
    for line in parts[1].splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == "license":
            return value.strip().strip("'\"")
    return ""
