"""Tasks of lm-eval (`lm-eval:TASK`) on the model under evaluation, with their items as rows that can be compared."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.context import Context
from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.evaluation.settings import EvalSettings
from lcx.paths import slug
from lcx.storage import Journal, is_inside, make_folder, sha256_json, write_lines
from lcx.yamls import read_yaml_file

if TYPE_CHECKING:
    from lcx.evaluation.model import ModelUnderTest
    from lcx.evaluation.planning import PlannedTask

__all__ = ["BRIDGE", "require_lm_eval", "run_bridge", "task_scores"]

BRIDGE = "lm-eval:"
"""What stands before the name of a task of lm-eval."""
FAMILY = "lm-eval"
"""Key of the setting `data` for a folder of own task files."""
BATCH = 8
"""Prompts at a time."""


def require_lm_eval(task: str) -> None:
    """Raise MissingError with the line that installs lm-eval where it is not there. Does not import it."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingError(f"{task} needs lm-eval, which is not installed", hint="pip install 'lcx[lm-eval]'")


def run_bridge(
    planned: Sequence[PlannedTask], tested: ModelUnderTest, out: Path, ctx: Context
) -> dict[str, dict[str, Any]]:
    """Scores by task, `lm-eval:NAME`; a group of lm-eval gives one for each of its tasks. Rows go to `out`.

    What the journal has is not done again. Raises UsageError for a task that lm-eval does not know, and
    MissingError where its data cannot be had.
    """
    from lcx.evaluation.local_model import LocalModel
    from lcx.evaluation.runner import JOURNAL

    assert isinstance(tested, LocalModel)
    settings = planned[0].settings
    make_folder(out)
    found: dict[str, dict[str, Any]] = {}
    with Journal(out / JOURNAL) as journal:
        for one in planned:
            name = one.name.removeprefix(BRIDGE)
            mark = _mark(tested, settings)
            held = journal.get(one.name)
            if held is None or held["fingerprint"] != mark:
                ctx.log(f"{one.name}: handed to lm-eval")
                results = _evaluate(name, tested, settings, bars=not ctx.console.quiet)
                held = {"unit": one.name, "fingerprint": mark, "results": results}
                journal.append(held)
            for task, result in held["results"].items():
                found[BRIDGE + task], rows = task_scores(BRIDGE + task, result)
                write_lines(out / f"predictions-{slug(BRIDGE + task)}.jsonl", rows)
                ctx.log(f"{BRIDGE}{task}: {len(rows)} items")
    return found


def _mark(tested: Any, settings: EvalSettings) -> str:
    folder = next(iter(settings.places(FAMILY).get(FAMILY, ())), None)
    files = sorted(Path(folder).expanduser().rglob("*")) if folder else []
    own = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files if path.is_file()]
    return sha256_json([tested.weights, settings.limit, settings.chat, _version(), own])[:32]


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("lm_eval")


def _evaluate(name: str, tested: Any, settings: EvalSettings, *, bars: bool) -> dict[str, Any]:
    """{task: {"values": metrics, "better": which are better high, "samples": rows, "version"}}, as JSON."""
    with _quiet(bars):
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        folder = next(iter(settings.places(FAMILY).get(FAMILY, ())), None)
        own = str(Path(folder).expanduser()) if folder else None
        if own and not settings.lm_eval_code:
            _refuse_code(Path(own))
            _sandbox_templates()
        manager = TaskManager(include_path=own, include_defaults=own is None)
        if own and name not in manager.all_tasks:  # its own tasks are many: reading their files takes seconds
            manager = TaskManager(include_path=own)
        if name not in manager.all_tasks:
            near = suggestion(name, manager.all_tasks)
            raise UsageError(
                f"lm-eval has no task '{name}'. {near}".rstrip(),
                hint="lm-eval ls tasks shows all; --set eval.data.lm-eval=FOLDER adds task files of your own.",
            )
        chat = settings.chat != "never" and bool(getattr(tested.tokenizer, "chat_template", None))
        model = HFLM(pretrained=tested.model, tokenizer=tested.tokenizer, batch_size=BATCH)
        try:
            made = lm_eval.simple_evaluate(
                model=model,
                tasks=[name],
                limit=settings.limit,
                log_samples=True,
                bootstrap_iters=0,
                apply_chat_template=chat,
                task_manager=manager,
                random_seed=settings.seed,
                numpy_random_seed=settings.seed,
                torch_random_seed=settings.seed,
                fewshot_random_seed=settings.seed,
            )
        except (OSError, ValueError, ImportError) as bad:
            missing = isinstance(bad, (OSError, ImportError)) or "dataset" in str(bad).lower()
            if not missing:
                raise
            raise MissingError(
                f"{BRIDGE}{name} cannot be loaded: {type(bad).__name__}",
                why=str(bad).strip().split("\n")[0],
                hint="lm-eval reads its data from the hub: run it once with a network, or give task files "
                "over local data: --set eval.data.lm-eval=FOLDER",
            ) from bad
    if not made:
        raise LcxError(f"lm-eval gave no results for {name}")
    return {task: _kept(task, made, samples) for task, samples in made["samples"].items()}


CODE_KEYS = ("class", "hf_evaluate", "trust_remote_code", "use_prompt")
"""Keys of lm-eval's task files by which code is loaded."""
PICKLES = ("pandas", "webdataset")
"""Readers of datasets that unpack Python's own objects, which may be code."""


def _refuse_code(folder: Path) -> None:
    """Raise UsageError where task files of a folder run code: tags, metrics that are downloaded, files elsewhere."""
    waiting, seen = sorted(folder.rglob("*.yaml")), set[str]()
    while waiting:
        file = waiting.pop()
        if not file.is_file() or os.path.realpath(file) in seen:
            continue
        seen.add(os.path.realpath(file))
        found, includes = _code_of(file)
        others = [file.parent / str(name) for name in includes]
        for other in others:
            if not is_inside(other, folder):
                found = found or f"it includes {str(other)!r}, which lies elsewhere"
        if found:
            raise UsageError(
                f"{file} may run code: {found}",
                why="Task files of lm-eval can name code of their own, which lcx does not run unasked.",
                hint="Read it; where you trust the folder: --set eval.lm_eval_code=true",
            )
        waiting += others


def _code_of(file: Path) -> tuple[str, list[Any]]:
    """What in a task file runs code, in a few words (an empty text where nothing does), and the files it includes."""
    importlib.import_module("lm_eval.api.metrics")  # fills the registry
    from lm_eval.api.registry import metric_registry

    try:
        read = read_yaml_file(file).value
    except (UsageError, OSError) as bad:  # a tag such as !function, or what a plain file does not hold
        return str(getattr(bad, "why", "") or bad), []
    includes: list[Any] = []
    waiting: list[Any] = [read]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if named := next((key for key in CODE_KEYS if value.get(key)), ""):
                return f"'{named}'", []
            metric = value.get("metric")
            if metric is not None and (not isinstance(metric, str) or metric not in metric_registry):
                return f"a metric that lm-eval itself does not have, {metric!r}", []
            source = str(value.get("dataset_path", ""))
            if source.endswith(".py") or source in PICKLES:
                return f"its data are read by '{source}'", []
            included = value.get("include") or []
            includes += included if isinstance(included, list) else [included]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return "", includes


def _sandbox_templates() -> None:
    """Let lm-eval fill in templates of task files without reach of Python's own objects."""
    import lm_eval.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not isinstance(lm_eval.utils.env, ImmutableSandboxedEnvironment):
        old = lm_eval.utils.env
        made = ImmutableSandboxedEnvironment(
            loader=old.loader, undefined=old.undefined, keep_trailing_newline=old.keep_trailing_newline
        )
        made.filters.update(old.filters)
        lm_eval.utils.env = made


def _kept(task: str, made: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a task's results what is reported, in plain numbers and texts."""
    values = {
        key: float(value)
        for key, value in made["results"].get(task, {}).items()
        if "," in key and "_stderr" not in key and isinstance(value, (int, float))
    }
    return {
        "values": values,
        "better": dict(made.get("higher_is_better", {}).get(task) or {}),
        "version": str(made.get("versions", {}).get(task, "")),
        "shots": made.get("n-shot", {}).get(task),
        "samples": [_sample(sample) for sample in samples],
    }


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    arguments = sample["arguments"]
    first = arguments[0] if arguments else ("",)
    numbers = {}
    for metric in sample["metrics"]:
        if isinstance(sample.get(metric), (int, float)):
            numbers[metric] = float(sample[metric])
    return {
        "id": sample["doc_id"],
        "doc": sample["doc_hash"],
        "filter": sample["filter"],
        "question": str(first[0])[-2000:],
        "target": str(sample["target"]),
        "pred": _said(sample["filtered_resps"], arguments),
        "metrics": numbers,
    }


def _said(responses: Sequence[Any], arguments: Sequence[Any]) -> str:
    """What the model said; for choices, the one that it found likeliest."""
    if len(responses) > 1 and all(
        isinstance(one, Sequence) and not isinstance(one, str) for one in responses
    ):
        best = max(range(len(responses)), key=lambda place: responses[place][0])
        return str(arguments[best][1]).strip() if best < len(arguments) else ""
    first = responses[0] if responses else ""
    return str(first[0]) if isinstance(first, list) and first else str(first)


def task_scores(task: str, result: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores of one task and its rows. The score is its first metric that is better high and between 0 and 1.

    Where there is none, rows have no score, and only lm-eval's own numbers are reported.
    """
    from lcx.evaluation.statistics.intervals import estimate_mean

    samples = list(result["samples"])
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    mine = [sample for sample in samples if sample["filter"] == filters[0]] if filters else []
    metric = _headline(mine, result["better"])
    rows = []
    for sample in sorted(mine, key=lambda one: one["id"]):
        item = f"{task}#{sample['id']}"
        rows.append(
            {
                "item": item,
                "context": item,
                "id": sample["id"],
                "question": sample["question"],
                "answers": [sample["target"]],
                "pred": sample["pred"],
                "score": sample["metrics"].get(metric),
                "finish": None,
                "metrics": sample["metrics"],
            }
        )
    known = [row["score"] for row in rows if row["score"] is not None]
    estimate = estimate_mean([row["score"] for row in rows], [row["context"] for row in rows]).as_dict()
    average = sum(known) / len(known) if known else None
    return {
        "task": task,
        "view": "table",
        "n": len(rows),
        "score": None if average is None else 100 * average,
        "average": average,
        "metric": metric,
        "filter": filters[0] if filters else None,
        "values": dict(result["values"]),
        "version": result["version"],
        "shots": result["shots"],
        "estimate": estimate,
        "by": {},
        "nulls": 0,
        "skipped": 0,
        "refused": 0,
        "truncated": 0,
        "duplicates": 0,
        "compat": None,
        "data": sha256_json([sample["doc"] for sample in mine])[:16],
    }, rows


def _headline(samples: Sequence[Mapping[str, Any]], better: Mapping[str, Any]) -> str | None:
    names = list(dict.fromkeys(name for sample in samples for name in sample["metrics"]))
    for name in names:
        values = [sample["metrics"].get(name) for sample in samples]
        if better.get(name, True) and all(value is not None and 0 <= value <= 1 for value in values):
            return name
    return None


@contextlib.contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    """Without lm-eval's log lines, and without its look for a git repository, which complains on stderr.

    Its progress goes to stderr as well: `bars` says whether it is shown.
    """
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    evaluator: Any = None
    with contextlib.suppress(ImportError):
        evaluator = importlib.import_module("lm_eval.evaluator")
    looks = getattr(evaluator, "get_git_commit_hash", None)
    if looks is not None:
        evaluator.get_git_commit_hash = lambda: None
    try:
        with contextlib.nullcontext() if bars else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if looks is not None:
            evaluator.get_git_commit_hash = looks
