"""scores.json: what became of all answers, where results lie, which of them may be compared, which two are meant.

`comparable` is asked by all who put two results beside one another: `lcx compare`, the pictures and the terminal of an
eval step, and the report. What they do with its answer:

| difference | curves.png, terminal | report | `lcx compare` |
|---|---|---|---|
| `questions`: seed, lengths, texts ... | left out, with a note | a task of its own | shared items, a note |
| else: chat template, prompt, data ... | shown, with a note | shown, with a note | compared, a note |
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.evaluation.result import Result, result_of
from lcx.paths import runs_folder
from lcx.storage import is_broken, read_json, sha256_file

__all__ = [
    "ROLES",
    "Difference",
    "EvalResult",
    "Side",
    "as_written",
    "check_notes",
    "comparable",
    "find_results",
    "find_sides",
    "label_results",
    "load_result",
    "merge_answering",
    "overlay",
    "own_scale",
    "run_of",
]

SCORES = "scores.json"

# ---- how tasks were answered


def own_scale(scores: Mapping[str, Any]) -> bool:
    """Whether a task's scores do not go from 0 to 1, so that they have no mean with others'."""
    return list(scores.get("scale") or (0, 1)) != [0, 1]


def merge_answering(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How all tasks were answered, in one: way and reason, failed items by reason, and the checks added up.

    Each task's scores say it of themselves, so that one asked before is not forgotten when another is asked.
    """
    known = {task: one["answering"] for task, one in tasks.items() if one.get("answering")}
    if not known:
        return {}
    *_, newest = known.values()
    found = {key: value for key, value in newest.items() if key not in ("check", "failed", "cut")}
    found["reuse"] = all(one.get("reuse") for one in known.values())
    failed: Counter[str] = Counter()
    for one in known.values():
        failed.update(one.get("failed") or {})
    if failed:
        found["failed"] = dict(sorted(failed.items()))
    checks = {task: one["check"] for task, one in known.items() if one.get("check")}
    if not checks:
        return found
    total: dict[str, Any] = {
        key: sum(int(check.get(key, 0)) for check in checks.values()) for key in ("checked", "equal", "ties")
    }
    different = [f"{task} {name}" for task, check in checks.items() for name in check.get("different", [])]
    warnings = [f"{task}: {check['warning']}" for task, check in checks.items() if check.get("warning")]
    found["check"] = total | {"different": different} | ({"warning": " ".join(warnings)} if warnings else {})
    return found


def check_notes(answering: Mapping[str, Any]) -> list[str]:
    """What a self-check that failed means, for whoever reads the results."""
    check = answering.get("check") or {}
    different = check.get("different") or []
    if not different:
        return []
    return [
        f"do not trust these results: the self-check found {len(different)} of {check['checked']} answers that a "
        f"full computation gives otherwise, {different[0]} first"
    ]


def warnings_of(result: EvalResult) -> list[str]:
    """Why numbers of a result, or of its single rows, are not to be trusted."""
    found = result.scores.get("answering")
    named = result.scores.get(ROWS)
    changed = [
        f"{result.folder / name} was changed since lcx eval wrote it"
        for name, digest in (named.items() if isinstance(named, Mapping) else ())
        if "/" not in name and (file := result.folder / name).is_file() and sha256_file(file) != digest
    ]
    return [*check_notes(found if isinstance(found, Mapping) else {}), *changed]


# ---- results on disk

ROWS = "rows"
"""The key in `scores.json` of the digests of the files of predictions, by their names."""
ROLES = ("before", "after")
"""What the two models of a report are called where the second was trained by the run."""


@dataclass(frozen=True)
class EvalResult:
    """What one model got: its folder and `scores.json`. `trained` is the place of its train step in the run, or -1."""

    folder: Path
    scores: Mapping[str, Any]
    name: str
    trained: int = -1
    label: str = ""
    made: int = field(default=0, compare=False)

    @property
    def step(self) -> str:
        """The name of the eval step's folder."""
        return self.folder.parent.name


def run_of(folder: Path) -> Path | None:
    """The run that an eval step's folder, or a model's folder in it, lies in."""
    return next(
        (place for place in (folder, *folder.parents[:2]) if (place / "manifest.json").is_file()), None
    )


def find_results(folder: Path, step: str | None = None) -> list[EvalResult]:
    """The results in a run, in an eval step's folder, or of one model, in the order in which they are shown.

    Models that the run did not train come first, then trained ones in the order of their steps; else the oldest
    first. Raises MissingError where there are none.
    """
    folder = folder.expanduser()
    places = [folder / step] if step else [folder]
    files: list[Path] = []
    # A run has results a folder deep (of steps that evaluate no model) and two deep.
    for depths in ((SCORES,), (f"*/{SCORES}", f"*/*/{SCORES}")):
        files = [path for place in places for depth in depths for path in sorted(place.glob(depth))]
        if files:
            break
    if not files:
        raise MissingError(
            f"no results in '{folder / step if step else folder}'",
            why=f"no {SCORES} lies in it or in its folders" if folder.is_dir() else "there is no such folder",
            hint=_how_to_get(folder),
        )
    return ordered([load_result(path.parent) for path in files])


def load_result(folder: Path) -> EvalResult:
    """The result in a model's folder. Raises MissingError where the file there is none."""
    found = read_scores(folder)
    made = (folder / SCORES).stat().st_mtime_ns
    return EvalResult(folder, found, folder.name or "model", _trained(folder), made=made)


def read_scores(folder: Path) -> dict[str, Any]:
    """What `scores.json` in a model's folder holds. Raises MissingError where the file there is none, or damaged."""
    try:
        found = read_json(folder / SCORES)
    except LcxError as bad:
        # Not exit code 1: for `lcx compare --fail-on-regression` that says that a model got worse.
        raise MissingError(bad.what, why=bad.why, hint="Run the evaluation again.") from None
    if not isinstance(found, dict) or not isinstance(found.get("tasks"), Mapping):
        raise MissingError(f"{folder / SCORES} is no result of lcx eval", hint="Run the evaluation again.")
    if is_broken(found):
        raise MissingError(
            f"{folder / SCORES} is not as lcx eval wrote it",
            hint="Run the evaluation again, which takes its answers from the journal. Where you changed the file, take "
            "its entry 'seal' out.",
        )
    return found


@contextmanager
def as_written(*places: str | Path) -> Iterator[None]:
    """Call it by its place where results cannot be shown, which a file that was changed or cut may cause.

    Raises MissingError for what a value of another shape than `lcx eval` writes leads to.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as bad:
        frame = traceback.extract_tb(bad.__traceback__)[-1]
        raise MissingError(
            f"{' and '.join(str(place) for place in places)}: these results are not as lcx eval writes them",
            why=f"{type(bad).__name__}: {bad} ({Path(frame.filename).name}, line {frame.lineno})",
            hint=f"Run the evaluation again. Where nobody changed a {SCORES}, please report it, with the file.",
        ) from bad


def ordered(results: Iterable[EvalResult]) -> list[EvalResult]:
    """Untrained models first, then those of the run's train steps in their order; else the oldest first."""
    return sorted(results, key=lambda one: (one.trained, one.made))


def label_results(results: Sequence[EvalResult]) -> dict[str, str]:
    """What each model is called, by its name: before and after where there are two and the run trained the second."""
    trained: dict[str, int] = {}
    for one in results:
        trained.setdefault(one.name, one.trained)
    names = list(trained)
    if len(names) == 2 and trained[names[0]] < trained[names[1]]:
        return dict(zip(names, ROLES, strict=True))
    return {name: name for name in names}


def _trained(folder: Path) -> int:
    """The place, among a run's steps, of the train step that made a model; -1 where none did."""
    model = _asked_model(folder)
    if not model.startswith("step:"):
        return -1
    step = model.removeprefix("step:")
    run = run_of(folder)
    if run is not None:
        with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            steps = json.loads((run / "manifest.json").read_text(encoding="utf-8")).get("steps", {})
            if step in steps:
                return list(steps).index(step)
    return 0


def _asked_model(folder: Path) -> str:
    """The setting `model` of the eval step that filled a folder: `step:train`, a path, a hub id."""
    from lcx.yamls import read_yaml_file

    with suppress(OSError, LcxError):
        found = read_yaml_file(folder / "settings.yaml").value
        value = found.get("model") if isinstance(found, Mapping) else None
        return str(value.get("value") if isinstance(value, Mapping) else value or "")
    return ""


# ---- which results may be compared

ASKED = ("sample_seed", "template", "template_hash", "chat", "chat_template", "judge", "judging")
"""What an eval step says of how it asked. Where it differs, the same questions were asked in another way."""
DRAWN = ("corpus", "seed", "style")
"""What the questions are made from. Where it differs, so do the questions, unless they have the same `material`."""
SHAPE = (
    *("positions", "contexts", "span", "view"),  # of any task; those that it lacks are alike
    *("unit", "lengths", "depths"),  # of a grid
    *("scale", "against"),  # of judged tasks
    *("content", "edges"),  # of texts that were read: other tokens have other probabilities
)
"""What two results of a task must share to be drawn over or beside one another."""


@dataclass(frozen=True)
class Difference:
    """What differs between two results besides their models, in `words`.

    `questions`: they were asked different things, and share no picture; else the same in another way. `task` is empty
    for what holds for all tasks.
    """

    key: str
    words: str
    questions: bool
    task: str = ""

    def __str__(self) -> str:
        return f"{self.task}: {self.words}" if self.task else self.words


def comparable(a: Mapping[str, Any], b: Mapping[str, Any], task: str) -> list[Difference]:
    """What differs between two results (`scores.json`) of a task besides the models; nothing where they are alike."""
    one, other = a["tasks"][task], b["tasks"][task]
    same = bool(one.get("material")) and one.get("material") == other.get("material")
    found = []
    for key in (*(() if same else DRAWN), *ASKED):
        if _content(key, a.get(key)) != _content(key, b.get(key)) and (
            key in DRAWN or (key in a and key in b)
        ):
            words = f"the two were asked with another {key.replace('_', ' ')}: {_brief(a.get(key))} and "
            found.append(Difference(key, words + _brief(b.get(key)), key in DRAWN))
    for key in SHAPE:
        default = "curve" if key == "view" else None  # results from before there were views
        values = [scores.get(key, default) for scores in (one, other)]
        if values[0] != values[1]:
            words = f"other {key}: {_brief(values[0])} and {_brief(values[1])}"
            found.append(Difference(key, words, True, task))
    if one.get("data") and other.get("data") and one["data"] != other["data"]:
        found.append(Difference("data", "the data differ", False, task))
    if one.get("compat") != other.get("compat"):
        words = f"scored as {one.get('compat') or 'ours'} and as {other.get('compat') or 'ours'}"
        found.append(Difference("compat", words, False, task))
    prompts = [scores.get("prompt") for scores in (one, other)]
    if isinstance(prompts[0], Mapping) and isinstance(prompts[1], Mapping):
        keys = dict.fromkeys((*prompts[0], *prompts[1]))
        names = [
            key for key in keys if _content(key, prompts[0].get(key)) != _content(key, prompts[1].get(key))
        ]
        if names:
            found.append(Difference("prompt", f"the prompts differ ({', '.join(names)})", False, task))
    return found


def _content(key: str, value: Any) -> Any:
    """What is compared of a setting: a chat template's text, not the folder that it lies in."""
    if key == "chat_template" and isinstance(value, Mapping) and value.get("hash"):
        return value["hash"]
    return value


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("hash") or "other settings"
    return str(value)[:40]


def overlay(folder: Path) -> tuple[dict[str, dict[str, Result]], list[str]]:
    """The results in an eval step's folder that may be shown together: by task and then model, and notes.

    Of each task it is the newest result that has it, and those of the same questions. The notes say what is left out
    and why, and what else differs.
    """
    files = sorted(folder.glob(f"*/{SCORES}"), key=lambda path: path.stat().st_mtime_ns)
    results = {path.parent.name: read_scores(path.parent) for path in files}
    found: dict[str, dict[str, Result]] = {}
    notes: dict[str, None] = {}
    if not results:
        return found, []
    *_, (last, newest) = results.items()
    for task in newest["tasks"]:
        for model, result in results.items():
            if task not in result["tasks"]:
                continue
            differences = comparable(result, newest, task)
            other = [one for one in differences if one.questions]
            if not other:
                found.setdefault(task, {})[model] = result_of(task, result["tasks"][task])
            for one in other or differences:
                left = f"{model} is not shown with {last}" if other else f"{model} and {last}"
                notes[f"{left}: {one}"] = None
    return found, list(notes)


# ---- which two results are meant


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a model, and its results of every eval step that is meant."""

    name: str
    results: tuple[EvalResult, ...]

    @property
    def tasks(self) -> dict[str, EvalResult]:
        """The result that has each task; of several, the newest."""
        return {
            task: one
            for one in sorted(self.results, key=lambda one: one.made)
            for task in one.scores["tasks"]
        }

    @property
    def place(self) -> str:
        """The folder, or the folder that holds all of them."""
        folders = [one.folder for one in self.results]
        return str(folders[0] if len(folders) == 1 else run_of(folders[0]) or folders[0].parent)

    def as_dict(self) -> dict[str, Any]:
        newest = max(self.results, key=lambda one: one.made).scores
        about = {
            key: newest[key] for key in ("model", "lcx", "seed", "corpus") if newest.get(key) is not None
        }
        return {"name": self.name, "folders": [str(one.folder) for one in self.results], **about}


def find_sides(places: Sequence[str], models: Sequence[str] = ()) -> tuple[Side, Side]:
    """The two sides that `places` (one or two) and `models` (none or two names) mean.

    Of one place, the models are its two, the untrained or older one first. Raises MissingError where there are no
    results, and UsageError, with what to write, where it is not clear which are meant.
    """
    if len(models) not in (0, 2):
        raise UsageError(f"--models takes two names, not {len(models)}", hint="--models base,trained")
    if not 1 <= len(places) <= 2:
        raise UsageError("compare takes one or two results", hint="lcx compare RUN_A RUN_B")
    found = [_models_at(place) for place in places]
    if len(places) == 1 and not models:
        first = _both(places[0], found[0])
    else:
        wanted: Sequence[str | None] = models or (None, None)
        both = found if len(found) == 2 else [found[0], found[0]]
        where = places if len(places) == 2 else [places[0], places[0]]
        first = (_pick(where[0], both[0], wanted[0]), _pick(where[1], both[1], wanted[1]))
    a, b = first
    if {one.folder.resolve() for one in a.results} == {one.folder.resolve() for one in b.results}:
        raise UsageError(f"both sides are the same result, {a.place}", hint="lcx compare RUN_A RUN_B")
    return _told_apart(a, b)


def _models_at(text: str) -> dict[str, Side]:
    """The models at a place, in the order in which they are shown."""
    place, model = _place(text)
    if place.name == SCORES:
        place = place.parent
    try:
        results = find_results(place)
    except MissingError as bad:
        raise MissingError(bad.what, why=bad.why, hint=_how_to_get(place)) from None
    named: dict[str, list[EvalResult]] = {}
    for one in ordered(results):
        named.setdefault(one.name, []).append(one)
    sides = {name: Side(name, tuple(of)) for name, of in named.items()}
    return {model: _pick(str(place), sides, model)} if model else sides


def _place(text: str) -> tuple[Path, str | None]:
    """The path, and the model named after a colon where the whole text is no path."""
    for candidate, model in ((text, None), text.rpartition(":")[::2] if ":" in text else (text, None)):
        for path in (Path(candidate).expanduser(), runs_folder() / candidate):
            if candidate and path.exists():
                return path, model
    head = text.rpartition(":")[0] or text
    raise MissingError(f"there is no run or result '{head}'", hint=_how_to_get(Path(head)))


def _how_to_get(place: Path) -> str:
    """The command that would evaluate a run."""
    with suppress(OSError, LcxError, AttributeError):
        recipe = read_json(place / "manifest.json").get("recipe")
        return f"lcx eval --recipe {recipe} --run {place}"
    return "lcx eval --recipe in2-tiny, then lcx compare runs/in2-tiny"


def _both(place: str, sides: Mapping[str, Side]) -> tuple[Side, Side]:
    """The two models of one place."""
    names = list(sides)
    if len(names) < 2:
        raise UsageError(
            f"'{place}' has results of one model only, '{names[0]}'",
            hint=f"lcx compare {place} OTHER_RUN, or evaluate another model in this run:"
            f" {_how_to_get(Path(place).expanduser())} --model MODEL",
        )
    if len(names) > 2:
        raise UsageError(
            f"'{place}' has results of {len(names)} models: say which two",
            why=f"They are {', '.join(names)}.",
            hint=f"lcx compare {place} --models {names[0]},{names[-1]}",
        )
    return sides[names[0]], sides[names[1]]


def _pick(place: str, sides: Mapping[str, Side], name: str | None) -> Side:
    """The model of that name, or the only one."""
    if name is None:
        if len(sides) > 1:
            names = list(sides)
            raise UsageError(
                f"'{place}' has results of {len(names)} models: say which one",
                why=f"They are {', '.join(names)}.",
                hint=f"Write {place}:{names[-1]} in its place.",
            )
        return next(iter(sides.values()))
    if name not in sides:
        raise UsageError(
            f"'{place}' has no results of a model '{name}'. {suggestion(name, sides)}".rstrip(),
            why=f"It has {', '.join(sides)}.",
            hint=f"lcx compare {place}:{next(iter(sides))} ...",
        )
    return sides[name]


def _told_apart(a: Side, b: Side) -> tuple[Side, Side]:
    """The sides by names that differ: those of their runs where the models are called the same."""
    if a.name != b.name:
        return a, b
    names = []
    for side in (a, b):
        run = run_of(side.results[0].folder)
        names.append(f"{run.resolve().name}:{side.name}" if run else str(side.results[0].folder))
    if names[0] == names[1]:
        names = [str(side.results[0].folder) for side in (a, b)]
    if names[0] == names[1]:
        names = [f"{side.name} ({letter})" for side, letter in ((a, "A"), (b, "B"))]
    return Side(names[0], a.results), Side(names[1], b.results)
