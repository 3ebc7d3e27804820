"""A run: a directory with one folder a step and a manifest; what is done, what resumes, what refuses."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx import __version__, gguf
from lcx.context import StepResult
from lcx.data.files import ROW_ENDINGS, is_row_file
from lcx.errors import LcxError, MissingError, UsageError
from lcx.hub import MODEL_HINT, here, tiny_spec
from lcx.paths import cache_folder, runs_folder, slug
from lcx.recipe import Step
from lcx.settings import Settings
from lcx.storage import (
    SEAL,
    is_broken,
    is_inside,
    links_away,
    make_folder,
    only_writer,
    read_json,
    remove_leftovers,
    sealed,
    sha256_file,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from lcx.plugins import Plugins

__all__ = [
    "Run",
    "cache_folder",
    "differences",
    "digest",
    "fingerprint",
    "identity",
    "runs_folder",
    "slug",
    "versions",
]

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "tokenizers", "numpy")

LOOSE = "loose"
"""Part of a fingerprint that may change while the work in a step's folder stays good (`lcx.settings.KEEPS`)."""
RECORD = ".record.json"
"""What the manifest says of a step, kept in the step's folder too: a lost manifest is made again from these."""
OWN = ("settings.yaml", RECORD)
"""Files of a step's folder that say what it is, and are no work."""
REMOVED = ".removed-"
"""What the folder's name begins with into which a step's old files go before they are deleted."""
PAID = tuple(name + part for name in ("calls.sqlite", "embeddings.sqlite") for part in ("", "-wal", "-shm"))
"""Journals of calls (`lcx.llm.ledger`) and of a server's embeddings in a step's folder; sqlite needs all its files."""


def digest(value: Any) -> str:
    """A short, stable hash of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of lcx, Python and the libraries that change results, without importing them."""
    found = {"lcx": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Run:
    """One run directory. Steps are kept by key: the step's id, and for eval also the name of what is evaluated."""

    def __init__(
        self, path: Path, recipe: str, reference: str = "", stages: Mapping[str, str] | None = None
    ) -> None:
        """Open a run without writing. `reference` is what `--recipe` was given, a name or a path, and `stages` are
        the stages of its steps by id: both are for hints.
        """
        self.stages = dict(stages or {})
        self.path = path
        self.recipe = recipe
        self.reference = reference or recipe
        self.recovered: tuple[str, ...] = ()
        """Steps whose records were lost with the manifest, and were read from their folders."""
        self.altered: set[str] = set()
        """Files of steps that others stand on, and that are not what the step wrote."""
        self.manifest = self._read()
        if not (path / "manifest.json").is_file() and not self.recovered and _holds_other_things(path):
            raise UsageError(
                f"{path} is not empty and holds no manifest.json", hint="Take another --run DIR."
            )

    def _read(self) -> dict[str, Any]:
        """The manifest on disk, or an empty one. Raises LcxError for a damaged one, UsageError for another
        recipe's.
        """
        file = self.path / "manifest.json"
        if not file.is_file():
            return self._rebuilt() or {"recipe": self.recipe, "steps": {}}
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            wrong = "" if _is_manifest(manifest) else f"{file} is not a manifest of lcx"
            why = ""
            if not wrong and is_broken(manifest):
                wrong = f"{file} is not as lcx wrote it"
                why = f"Where you changed it, take the line '{SEAL}' out of it"
        except (ValueError, RecursionError) as bad:
            wrong, why = f"{file} is not valid JSON", str(bad)
        if wrong:
            if rebuilt := self._rebuilt():
                return rebuilt
            folders = sorted(path.name for path in self.path.iterdir() if path.is_dir())
            left = f"; its folders are as they were: {', '.join(folders)}" if folders else ""
            raise LcxError(
                wrong,
                why=f"{why}{left}".removeprefix("; "),
                hint="Take another --run DIR; `--input` and `--model` take what is left here by its path.",
            )
        other = manifest.get("recipe")
        if other != self.recipe:
            raise UsageError(
                f"{self.path} is a run of the recipe '{other}', not of '{self.recipe}'",
                hint="Take another --run DIR." + _taken_by_path(self.path),
            )
        manifest.pop(SEAL, None)
        return manifest

    def _rebuilt(self) -> dict[str, Any] | None:
        """A manifest made of the records in the steps' folders; None where there are none of this recipe."""
        found = {}
        for file in (*self.path.glob(f"*/{RECORD}"), *self.path.glob(f"*/*/{RECORD}")):
            key = file.parent.relative_to(self.path).as_posix()
            if (record := self._kept_record(key)) is not None:
                found[key] = record
        self.recovered = tuple(sorted(found, key=lambda key: str(found[key].get("started"))))
        return (
            {"recipe": self.recipe, "steps": {key: found[key] for key in self.recovered}} if found else None
        )

    def _kept_record(self, key: str) -> dict[str, Any] | None:
        """The record in a step's folder, where it is one of this recipe's step."""
        file = self.path / key / RECORD
        if not file.is_file() or not is_inside(file, self.path):
            return None
        with contextlib.suppress(LcxError, OSError, RecursionError):
            held = read_json(file)
            record = held.get("record") if isinstance(held, dict) and not is_broken(held) else None
            if _is_record(record) and (held.get("recipe"), held.get("key")) == (self.recipe, key):
                return record
        return None

    def _record(self, key: str) -> dict[str, Any] | None:
        """What the manifest says of a step; where it says nothing, what the step's folder does."""
        return self.manifest["steps"].get(key) or self._kept_record(key)

    # -- places

    def key(self, step: Step) -> str:
        """The step's id, and for eval also what is evaluated: saved answers in place of a model, a model, or neither.

        So no eval's folder holds another's.
        """
        known = type(step.settings).model_fields
        if step.stage != "eval" or "model" not in known:
            return step.id
        answers, model = getattr(step.settings, "answers", None), getattr(step.settings, "model", None)
        leaf = f"answers-{slug(Path(answers).stem)}" if answers else slug(str(model)) if model else "no-model"
        return f"{step.id}/{leaf}"

    def folder(self, step: Step | str) -> Path:
        """The folder of a step's outputs (of a key, where a string is given). Raises UsageError where it is none of
        this run's: nothing outside a run is ever written or removed.
        """
        place = self.path / (step if isinstance(step, str) else self.key(step))
        if not is_inside(place, self.path):
            raise UsageError(
                f"{place} leads out of the run's folder",
                why=f"It is {os.path.realpath(place)}.",
                hint="Remove the link or the folder's entry in manifest.json, or take another --run DIR.",
            )
        return place

    def state(self, key: str) -> str:
        return str(self.manifest["steps"].get(key, {}).get("state", "new"))

    def resolve(self, reference: str, what: str = "data") -> Path:
        """The folder behind `step:ID` (its `data` or `model`), or the path itself. Raises MissingError."""
        if not reference.startswith("step:"):
            return Path(reference).expanduser()
        step_id = reference.removeprefix("step:")
        place = self.path / step_id / what
        if self.state(step_id) != "done" or not place.exists():
            stage = self.manifest["steps"].get(step_id, {}).get("stage", self.stages.get(step_id, step_id))
            flag = f" --step {step_id}" if stage != step_id else ""
            stage = stage if stage in ("synth", "score", "train", "eval") else "run"
            raise MissingError(
                f"this needs the {what} of step '{step_id}', which is not done in {self.path}",
                why=f"step '{step_id}' is {self.state(step_id).replace('new', 'not started')}",
                hint=f"lcx {stage} --recipe {self.reference}{flag} --run {self.path}",
            )
        return place

    def model(self, step: Step, spec: str = "") -> str:
        """The path or spec of the model that a step (or `spec`) names. Raises MissingError where there is none."""
        model = spec or getattr(step.settings, "model", None)
        if not model:
            named = step.origins.get("tasks") == "--task"  # by the command line, which the hint repeats
            asked = f" --task {','.join(getattr(step.settings, 'tasks', ()))}" if named else ""
            raise MissingError(
                f"step '{step.id}' needs a model",
                hint=f"lcx {step.stage} --recipe {self.reference} --run {self.path} --model PATH_OR_HUB_ID{asked}",
            )
        return str(self.resolve(model, "model")) if model.startswith("step:") else str(model)

    def bundles(self, step: Step) -> Path:
        """The folder of bundles, or file of rows, behind a step's `input`; `hf:NAME` passes as a path.

        Raises MissingError where there is none.
        """
        reference = getattr(step.settings, "input", None)
        if not reference:
            raise MissingError(
                f"step '{step.id}' needs data",
                hint=f"lcx {step.stage} --recipe {self.reference} --step {step.id} --run {self.path} --input PATH "
                "(a folder of bundles, or a .jsonl file of rows with question and answer)",
            )
        if reference.startswith("hf:"):
            return Path(reference)
        place = self.resolve(reference, "data")
        if not reference.startswith("step:"):
            refuse_run(place, "data", "--input", "data")
        if not place.is_dir() and not (place.is_file() and is_row_file(place)):
            endings = f"files of rows end with {', '.join(ROW_ENDINGS)}, and maybe .gz"
            raise MissingError(
                f"no data at '{place}'" if not place.is_file() else f"{place} is no file of rows",
                why="" if not place.is_file() else endings,
                hint="--input FOLDER with bundles-*.parquet or files of rows in it, or --input FILE.jsonl with a "
                "question and its answers in each row",
            )
        return place

    def llm(self, spec: str) -> str:
        """A text generator's spec with the folder of the model that `local:step:ID` names. Raises MissingError."""
        backend, colon, model = spec.partition(":")
        return (
            f"{backend}:{self.resolve(model, 'model')}"
            if model.startswith("step:")
            else f"{backend}{colon}{model}"
        )

    # -- states

    def begin(self, step: Step, fingerprint: Mapping[str, Any], *, force: bool = False) -> str:
        """Open a step's folder. Returns `fresh`, `resume` or `done`; refuses another fingerprint without
        `force`.

        Raises UsageError naming what differs.
        """
        key = self.key(step)
        record = self._record(key)
        how = self.standing(step, fingerprint, force=force)
        if how == "done":
            if key not in self.manifest["steps"]:
                self.manifest["steps"][key] = record
                self._save()
            return how
        if how == "resume" and (away := links_away(self.folder(key), self.path)):
            raise UsageError(
                f"{away[0]} leads out of the run's folder",
                why=f"It is a link to {os.path.realpath(away[0])}, where this step would write.",
                hint="Remove the link; --force starts the step over and removes it, not what it leads to.",
            )
        folder = self.folder(key)
        if how == "fresh" and folder.is_dir():
            # Each kill on the way leaves a folder that its record describes: the old one, begun and not done, until
            # all old files are out of the way, then the new one.
            if record is not None and key in self.manifest["steps"] and record.get("state") == "done":
                record["state"] = "interrupted"
                self._save()
            with contextlib.suppress(FileNotFoundError):
                (folder / RECORD).unlink()
            _set_aside(folder, self._others(key), self.path)
        made = int((record or {}).get("made", 0)) + (how == "fresh")
        self.manifest["steps"][key] = {
            "state": "running",
            "stage": step.stage,
            "method": step.method,
            "seed": getattr(step.settings, "seed", None),
            "made": made,
            "started": _now(),
            "versions": versions(),
            "fingerprint": dict(fingerprint),
        }
        self._save()
        make_folder(folder)
        for old in self.path.glob(f"{REMOVED}*"):
            _delete(old)
        remove_leftovers(folder)
        self._keep_record(key)
        self.write_settings(step)
        return how

    def write_settings(self, step: Step) -> None:
        """Write a step's settings, and where each comes from, into its folder."""
        from lcx.yamls import yaml_text

        folder = self.folder(step)
        resolved = {k: {"value": v, "from": step.origins.get(k, "")} for k, v in step.values().items()}
        write_text(folder / "settings.yaml", yaml_text(resolved))

    def standing(self, step: Step, fingerprint: Mapping[str, Any], *, force: bool = False) -> str:
        """What `begin` would return, without beginning. Raises UsageError as it does."""
        key = self.key(step)
        record = self._record(key)
        if record is None and not force and (strange := self._work_in(key)):
            raise UsageError(
                f"{self.folder(key)} holds files that are no record's of this run: {', '.join(strange[:5])}"
                + (" ..." if len(strange) > 5 else ""),
                why="They may be a step's work whose record in manifest.json was lost, or yours.",
                hint="Move them away to keep them (--input and --model take them by their path, and a folder with its "
                f"{RECORD} is taken up again), or remove them: --force starts this step over.",
            )
        new = json.loads(json.dumps(fingerprint, default=str))
        old = _with_defaults((record or {}).get("fingerprint") or {}, new, type(step.settings))
        same = record is not None and old == new
        if record is not None and not force:
            loosely = _work(old) == _work(new)
            if not same and loosely and self._holds_work(key):
                return "resume"
            if not same and self._holds_work(key):
                changes = differences(_work(old), _work(new))
                names = [set(one.get("settings") or {}) for one in (old, new)]
                if names[0] != names[1] and old.get("method") == new.get("method"):
                    changes.append("it is of another version of lcx, whose steps had other settings")
                raise UsageError(
                    f"{self.folder(key)} was made with other settings or inputs",
                    why="; ".join(changes),
                    hint="--force starts this step over; --run DIR keeps both.",
                )
            if same and record.get("state") == "done" and self._complete(key):
                return "done"
        return "resume" if same and not force else "fresh"

    def reload(self) -> None:
        """Read the manifest again, which another process may have written."""
        self.manifest = self._read()

    def _holds_work(self, key: str) -> bool:
        """Whether a step's folder holds more than its settings, empty files, and what it paid for, which a fresh start
        keeps: a start that failed at once is not in the way.
        """
        return bool(self._work_in(key))

    def _work_in(self, key: str) -> list[str]:
        """Names of what lies in a step's folder and is work."""
        folder = self.folder(key)
        kept, others = {*OWN, *PAID}, self._others(key)
        return sorted(
            path.name
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.name not in kept
            and path not in others
            and not _is_empty_file(path)
            and not _holds_only(path, others)
        )

    def _others(self, key: str) -> set[Path]:
        """The folders of the other steps, which may lie inside a step's own."""
        return {self.folder(other) for other in self.manifest["steps"] if other != key}

    def _complete(self, key: str) -> bool:
        """Whether the files that a done step reported, and all in the folders that it reported, are still there."""
        files = (self._record(key) or {}).get("files") or {}
        return all((self.folder(key) / path).exists() for path in files.values()) and not self.lost(key)

    def lost(self, key: str) -> dict[str, str]:
        """Files of a done step that are gone, cut off or damaged, and which of these."""
        found = {}
        for name, (size, *_) in self._outputs(key).items():
            path = self.folder(key) / name
            if not path.is_file():
                found[name] = "gone"
            elif path.stat().st_size != size:
                found[name] = f"of {path.stat().st_size:,} bytes in place of {size:,}"
        files = (self._record(key) or {}).get("files") or {}
        for name in filter(_is_own, files.values()):
            path = self.folder(key) / name
            if path.suffix == ".json" and path.is_file() and _is_damaged(path):
                found[name] = "damaged"
        return found

    def put_by(self, key: str) -> dict[str, str]:
        """Rename what was cut off of a done step's files, so that the step makes it anew; what `lost` found."""
        found = self.lost(key) if self.state(key) == "done" else {}
        for name in found:
            path = self.folder(key) / name
            if path.is_file() and is_inside(path, self.path):
                path.replace(path.with_name(f"unusable-{path.name}"))
        return found

    def _outputs(self, key: str) -> dict[str, list[Any]]:
        """Size, time and digest of each file in the folders that a done step reported, by its path in the step's."""
        held = (self._record(key) or {}).get("outputs")
        return {
            name: list(noted)
            for name, noted in (held if isinstance(held, dict) else {}).items()
            if isinstance(noted, list) and len(noted) == 3 and isinstance(noted[0], int) and _is_own(name)
        }

    def _changed(self, key: str, what: str) -> dict[str, str]:
        """Digests of the files of a done step's folder `what` that are not those that it wrote."""
        found = {}
        for name, (size, time, written) in self._outputs(key).items():
            path = self.folder(key) / name
            if not name.startswith(f"{what}/"):
                continue
            if not path.is_file():
                found[name] = ""
                continue
            now = path.stat()
            # A copied run has other times and the same contents, a bad disk the same times and other contents.
            # Weights are too large to be read twice, and shards of rows have checksums of their own.
            untouched = (now.st_size, now.st_mtime_ns) == (size, time)
            if untouched and (size > HASHED_WHOLE or path.suffix == ".parquet"):
                continue
            if (digest_now := sha256_file(path)) != written:
                found[name] = digest_now
        return found

    def finish(self, step: Step, result: StepResult) -> None:
        record = self.manifest["steps"][self.key(step)]
        record.update(
            state="done",
            finished=_now(),
            counts=result.counts,
            metrics=result.metrics,
            files=result.files,
            notes=result.notes,
            outputs=_written(self.folder(step), result.files),
            **({"extra": dict(result.extra)} if result.extra else {}),
        )
        self._keep_record(self.key(step))
        self._save()

    def stop(self, step: Step, state: str, reason: str = "") -> None:
        """Record that a step was interrupted or failed; it can be resumed."""
        record = self.manifest["steps"].get(self.key(step))
        if record is not None and record.get("state") == "running":
            record.update(state=state, reason=reason, finished=_now())
            self._save()

    def result(self, step: Step) -> StepResult:
        """What a done step reported."""
        record = self.manifest["steps"][self.key(step)]
        return StepResult(
            counts=record.get("counts", {}),
            metrics=record.get("metrics", {}),
            files=record.get("files", {}),
            notes=record.get("notes", []),
        )

    def work_of(self, step: Step) -> str:
        """What the entries of a step's journal follow from: its settings and inputs, as a short hash."""
        record = self.manifest["steps"].get(self.key(step)) or {}
        return digest(_work(record["fingerprint"])) if record.get("fingerprint") else ""

    def digest_of(self, key: str, what: str = "") -> str:
        """What identifies a step's outputs: the hash of its fingerprint, and which making of it this is.

        Where files of its folder `what` (data or model) are not what it wrote, their contents count too.
        """
        record = self.manifest["steps"].get(key, {})
        changed = self._changed(key, what) if what else {}
        self.altered.update(f"{key}/{name}" for name in changed)
        return digest([record.get("fingerprint"), record.get("made", 1), *([changed] if changed else [])])

    def _save(self) -> None:
        write_json(self.path / "manifest.json", sealed(self.manifest))

    def _keep_record(self, key: str) -> None:
        held = {"recipe": self.recipe, "key": key, "record": self.manifest["steps"][key]}
        write_json(self.folder(key) / RECORD, sealed(held))

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Keep a second lcx process out of this run while a step writes. Raises LcxError if one is there.

        `say` is told where the file system has no locks, and a file has to do.
        """
        make_folder(self.path)
        with only_writer(self.path, say):
            self.reload()  # another process may have finished a step since this one looked
            if self.recovered:
                say(f"manifest.json was lost; taken up from the steps' folders: {', '.join(self.recovered)}")
                self._save()
                self.recovered = ()
            yield


class TrialRun(Run):
    """A run beside another one, for a small trial of one of its steps.

    What the step needs of earlier steps is the other run's, unless this one has made it.
    """

    def __init__(self, of: Run) -> None:
        super().__init__(trial_folder(of.path), of.recipe, of.reference, of.stages)
        self.of = of

    def resolve(self, reference: str, what: str = "data") -> Path:
        """As the other run does, where this one has not done the step."""
        done = self.state(reference.removeprefix("step:")) == "done"
        return super().resolve(reference, what) if done else self.of.resolve(reference, what)

    def digest_of(self, key: str, what: str = "") -> str:
        """As the other run does, where this one has not done the step."""
        return super().digest_of(key, what) if self.state(key) == "done" else self.of.digest_of(key, what)


def trial_folder(run: Path) -> Path:
    """The folder of a run's trials: beside it, so that nothing in the run itself knows of them."""
    whole = Path(os.path.abspath(run))
    return (run if run.name == whole.name else whole).with_name(f"{whole.name}-trial")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What changed between two fingerprints, one phrase a leaf."""
    changes = []
    for key in sorted({*old, *new}):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changes += differences(a, b, f"{name}.")
        elif json.dumps(a, sort_keys=True, default=str) != json.dumps(b, sort_keys=True, default=str):
            was = f"was {a!r}" if key in old else "was not there"
            now = f"now {b!r}" if key in new else "is not there now"
            changes.append(f"{name}: {was}, {now}")
    return changes


def _with_defaults(
    old: Mapping[str, Any], new: Mapping[str, Any], settings: type[Settings]
) -> dict[str, Any]:
    """A recorded fingerprint with the settings that have come since, where they are at their defaults now.

    An earlier version of lcx, which did not have them, did what they do unless somebody sets them. A setting that it
    had and that is gone, or one that is set now, stays a difference.
    """
    found, defaults = dict(old), settings.model_construct().model_dump(mode="json")
    for part in ("settings", LOOSE):
        recorded, given = old.get(part), new.get(part)
        if isinstance(recorded, Mapping) and isinstance(given, Mapping):
            since = {name for name in given if name not in recorded and name in defaults}
            found[part] = {
                **recorded,
                **{name: given[name] for name in since if given[name] == defaults[name]},
            }
    return found


def _work(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what leaves the work good."""
    return {key: value for key, value in fingerprint.items() if key != LOOSE}


def _is_own(name: str) -> bool:
    """Whether a record, which a stranger may have written, names a file below its step's folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _is_damaged(path: Path) -> bool:
    """Whether a JSON file that lcx wrote is not what it wrote, as far as that can be told."""
    try:
        found = read_json(path)
    except LcxError:
        return True
    return isinstance(found, dict) and is_broken(found)


def _is_empty_file(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _holds_other_things(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir()) and not (path / ".lock").exists()


def _is_manifest(found: Any) -> bool:
    steps = found.get("steps") if isinstance(found, dict) else None
    return isinstance(steps, dict) and all(map(_is_record, steps.values()))


def _is_record(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("state", ""), str):
        return False
    if not isinstance(found.get("made") or 0, int) or not isinstance(found.get("notes") or [], list):
        return False
    parts = [found.get(name) or {} for name in ("fingerprint", "files", "counts", "metrics", "extra")]
    return all(isinstance(part, dict) for part in parts) and all(
        isinstance(file, str) for file in parts[1].values()
    )


def _holds_only(path: Path, others: set[Path]) -> bool:
    """Whether a folder holds other steps' folders, or nothing."""
    if not path.is_dir() or path.is_symlink() or not any(path in other.parents for other in others):
        return False
    return all(inner in others or _holds_only(inner, others) for inner in path.iterdir())


def _set_aside(folder: Path, others: set[Path], run: Path) -> None:
    """Empty a step's folder, but for what is other steps' and for the replies that were paid for: the same calls need
    not be paid twice. What goes is moved into a folder of the run first, since deleting it takes long.
    """
    bin = run / f"{REMOVED}{secrets.token_hex(8)}"
    bin.mkdir()

    def empty(place: Path) -> None:
        for number, path in enumerate(sorted(place.iterdir())):
            if path in others or (path.name in PAID and not path.is_symlink()):
                continue
            if path.is_dir() and not path.is_symlink():
                kept = any(path in other.parents for other in others)
                if kept or any(inner.name in PAID for inner in path.rglob("*")):
                    empty(path)
                    with contextlib.suppress(OSError):  # something in it was kept
                        path.rmdir()
                    continue
            try:
                path.rename(bin / f"{number}-{secrets.token_hex(4)}")
            except OSError:  # on another disk
                _delete(path)

    empty(folder)


def _delete(path: Path) -> None:
    """Remove a file, a link (not what it leads to), or a folder with all in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _written(folder: Path, files: Mapping[str, str]) -> dict[str, list[Any]]:
    """Size, time and digest of each file in the folders among a step's files, by its path in the step's folder."""
    found: dict[str, list[Any]] = {}
    for reported in files.values():
        place = folder / reported
        if not place.is_dir() or Path(reported).name not in ("data", "model"):
            continue
        for path in sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                now = path.stat()
                name = path.relative_to(folder).as_posix()
                found[name] = [now.st_size, now.st_mtime_ns, sha256_file(path)]
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# Places that settings name


def made_in(folder: Path, what: str) -> list[Path]:
    """The folders `data` or `model` that steps of a run left, the latest step last; of a step's folder its own."""
    found = [
        path
        for path in (folder / what, *folder.glob(f"*/{what}"), *folder.glob(f"*/*/{what}"))
        if path.is_dir()
    ]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def recipe_of(folder: Path) -> str:
    """The recipe whose run, or step of a run, a folder is; empty where it is neither."""
    for name in ("manifest.json", RECORD):
        try:
            held = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(held, dict) and isinstance(held.get("recipe"), str):
            return str(held["recipe"])
    return ""


def refuse_run(place: Path, wanted: str, flag: str, what: str = "") -> None:
    """Raise UsageError where the folder of a run stands in place of what is wanted, which may be in it as `what`."""
    if not place.is_dir() or not (recipe := recipe_of(place)):
        return
    made = made_in(place, what) if what else []
    raise UsageError(
        f"{place} is a run of the recipe '{recipe}', not {wanted}",
        why=f"Its {what} lies in {', '.join(map(str, made))}."
        if made
        else f"No step of it has made {what} yet."
        if what
        else "",
        hint=f"{flag} {made[-1] if made else 'FILE_OR_FOLDER'}",
    )


def _taken_by_path(folder: Path) -> str:
    """How another recipe takes what a run made."""
    parts = [
        f"{flag} {made[-1]}"
        for what, flag in (("data", "--input"), ("model", "--model"))
        if (made := made_in(folder, what))
    ]
    return f" What this one made is taken by its path: {' or '.join(parts)}" if parts else ""


PATHS = ("eval_input", "answers", "candidates_file", "short", "general", "decontaminate")
"""Settings of files that can name nothing but a path, `hf:NAME` or another step."""
BACKENDS_OF_PATHS = ("local", "sentence-transformers")
"""What stands before a model's path where a generator or a retriever is named."""


def check_places(step: Step, run: Run, plugins: Plugins) -> None:
    """Raise MissingError or UsageError where a setting names a path at which there is nothing, or another thing.

    What a hub may have, and what an earlier step will make, stays possible. Asks nobody and opens no model.
    """
    try:
        _check_places(step, run, plugins)
    except (MissingError, UsageError) as bad:
        raise type(bad)(f"step '{step.id}': {bad.what}", why=bad.why, hint=bad.hint) from None


def _check_places(step: Step, run: Run, plugins: Plugins) -> None:
    values = step.values()
    marked = type(step.settings).files() - {"data"}  # whose tasks are left out by name
    for key in sorted({*marked, "model", "input", "corpus"} & values.keys()):
        for name, value in _named_leaves(key, values[key]):
            if not isinstance(value, str) or not value or value.startswith(("hf:", "step:")):
                continue
            backend, colon, rest = value.partition(":")
            text = rest if colon and (backend in BACKENDS_OF_PATHS or _is_path(rest)) else value
            path = Path(text).expanduser()
            if text.startswith("step:") or run.path.absolute() in path.absolute().parents:
                continue  # a step to come may make it
            if key == "input":
                run.bundles(step)
            elif key == "corpus":
                _check_corpus(value)
            elif (key == "model" and not colon and value not in plugins.llms) or backend == "local":
                asked = tiny_spec(text) is None and not (key == "model" and values.get("answers"))
                if asked and (
                    path.is_dir() or (not path.exists() and (_is_path(text) or text.count("/") > 1))
                ):
                    here(
                        text, hint=f"--set {step.id}.{name}={backend}:PATH_OR_HUB_ID" if colon else MODEL_HINT
                    )
            elif (key in PATHS or _is_path(text)) and not path.exists():
                raise MissingError(
                    f"{name}: there is nothing at '{text}'",
                    hint=f"--set {step.id}.{name}=PATH names another place",
                )


def _check_corpus(spec: str) -> None:
    path = Path(spec).expanduser()
    if path.is_dir():
        refuse_run(path, "documents", "--corpus")
    elif not spec.startswith(("hf:", "stdlib")):
        from lcx.data.documents import read_corpus

        if not path.exists():
            read_corpus(spec)  # says what there is beside it


def _is_path(text: str) -> bool:
    """Whether a text can be nothing but a path: no hub id begins like this."""
    return text.startswith(("/", "./", "../", "~/"))


# What a step's outputs follow from

STEP_FILES = {"input": "data", "model": "model"}
HASHED_WHOLE = 16 << 20
"""Bytes up to which a file's contents enter a fingerprint."""


def identity(step: Step, run: Run, prints: Mapping[str, Any]) -> dict[str, str]:
    """A step's names and fingerprints as a tracker of experiments keeps them: equal ones mean equal work.

    `lcx_recipe_fingerprint` is of the step's settings, `lcx_data_fingerprint` and `lcx_model_fingerprint` are of what
    it was given, where that is on this machine or of an earlier step.
    """
    settings = {key: value for key, value in prints.items() if key != "inputs"}
    inputs = prints.get("inputs", {})
    found = {
        "lcx_version": __version__,
        "lcx_recipe": run.recipe,
        "lcx_step": step.id,
        "lcx_run": str(run.path),
        "lcx_recipe_fingerprint": digest(_work(settings)),
        "lcx_data_fingerprint": inputs.get("input", ""),
        "lcx_model_fingerprint": inputs.get("model", ""),
    }
    return {key: value for key, value in found.items() if value}


def fingerprint(step: Step, run: Run) -> dict[str, Any]:
    """What a step's outputs follow from: its settings, and a digest of every input. Raises MissingError
    early.
    """
    values = step.values()
    volatile, keeps = type(step.settings).volatile(), type(step.settings).keeps()
    inputs: dict[str, str] = {}
    others: dict[str, str] = {}
    for key, what in STEP_FILES.items():
        reference = values.get(key)
        if not reference or (key == "model" and values.get("answers")):  # saved answers need no model
            continue
        if str(reference).startswith("step:"):
            run.resolve(reference, what)
            inputs[key] = run.digest_of(str(reference).removeprefix("step:"), what)
        elif step_id := _named_step(reference):  # local:step:ID
            run.llm(str(reference))
            inputs[key] = run.digest_of(step_id, what)
        elif (named := gguf.named(str(reference))) is not None:
            inputs[key] = f"GGUF {named.sha256}"
        elif gguf.is_gguf(str(reference)):
            inputs[key] = f"GGUF {gguf.digest_of(str(reference))}"
        elif Path(str(reference)).expanduser().exists():
            inputs[key] = digest(_listing(Path(str(reference)).expanduser()))
        elif tiny_spec(str(reference)) is not None:  # trained here, by this version from this library's text
            inputs[key] = f"lcx {__version__}, python {platform.python_version()}"
    if values.get("corpus"):
        from lcx.data.documents import corpus_fingerprint

        inputs["corpus"] = corpus_fingerprint(str(values["corpus"]))
    for key in sorted(type(step.settings).files() - {"input", "model", "corpus"}):
        given = values[key]
        several = isinstance(given, list | tuple | Mapping)
        for name in _leaves(given):
            if step_id := _named_step(name):
                if not name.startswith("step:"):
                    run.llm(name)
                inputs[f"{key} {name}" if several else key] = run.digest_of(step_id)
                continue
            path = _named_path(name)
            if path is not None:
                (others if key in keeps else inputs)[f"{key} {name}"] = digest(_listing(path))
    if values.get("corpus") and Path(str(values["corpus"])).expanduser().exists():
        volatile |= {"corpus"}  # the same files by another path are the same corpus
    found = {
        "stage": step.stage,
        "method": step.method,
        "settings": {k: v for k, v in values.items() if k not in volatile | keeps},
        "inputs": inputs,
    }
    for key, name in step.settings.paths():
        if (path := _named_path(name)) is not None:
            (others if keeps else inputs)[key] = digest(_listing(path))
    if not keeps:
        return found
    return found | {LOOSE: {k: values[k] for k in sorted(keeps)} | {"inputs": others}}


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in a value that is no list or mapping itself."""
    if isinstance(value, list | tuple | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(one)
    else:
        yield value


def _named_leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a setting, each with its dotted name; those of a list go by the list's."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _named_leaves(f"{name}.{key}", one)
    else:
        yield from ((name, one) for one in _leaves(value))


def _named_step(value: Any) -> str:
    """The id in `step:ID` and `local:step:ID`, which stand for what another step made; else an empty text."""
    return f":{value}".partition(":step:")[2] if isinstance(value, str) else ""


def _named_path(value: Any) -> Path | None:
    """The file or folder that a setting names, also behind a backend's name (`local:PATH`), if it is there."""
    if not isinstance(value, str) or not value:
        return None
    for text in (value, value.partition(":")[2]):
        if text and Path(text).expanduser().exists():
            return Path(text).expanduser()
    return None


def _listing(path: Path) -> list[tuple[str, int, str]]:
    """Names, sizes and contents of a file or folder; large files (weights) by their time in place of contents."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(p.name, (found := p.stat()).st_size, _file_digest(p, found)) for p in files]


def _file_digest(path: Path, found: os.stat_result) -> str:
    if found.st_size <= HASHED_WHOLE:
        return sha256_file(path)
    return gguf.digest_of(path) if gguf.is_gguf(path) else str(found.st_mtime_ns)
