"""Tasks of the core (csqa, gsm8k, probes, suites) in LongReward's eval step: run by the core, shown with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcx.context import Context
from lcx.evaluation.planning import was_named
from lcx.evaluation.settings import ENDPOINT, EvalSettings
from lcx.evaluation.step import Findings, Prepared, answer_eval, prepare_eval
from lcx.paths import slug
from lcx.plugins import Plugins, loaded
from lcx.recipe import Step
from lcx.settings import validate
from lcx.work.shards import read_jsonl
from lcx_longreward.eval_settings import TASKS, LongRewardEval
from lcx_longreward.evaluation.results import Result

__all__ = ["answer_core", "core_results", "core_settings", "core_tasks", "prepare_core", "why_no_model"]

SHARED = (
    *("template", "window", "corpus", "documents", "limit", "seed", "batch", "data"),
    *("base_url", "api_key_env", "api_key_file", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *("tries", "timeout", "max_calls", "max_tokens", "max_cost", "prices"),
)
"""Settings that mean the same in both eval steps."""


def core_tasks(settings: LongRewardEval) -> list[str]:
    """The tasks that are the core's, in their order."""
    return [task for task in settings.tasks if task not in TASKS]


def why_no_model(settings: LongRewardEval) -> str:
    """Why the core cannot ask this model, in a clause; empty where it can."""
    if settings.answers:
        return "saved answers are to other questions"
    backend = str(settings.model or "").partition(":")[0]
    asks = backend not in loaded().llms or backend in ("local", "openai")
    return "" if asks else f"'{backend}' is no model that they can be asked of"


def core_settings(settings: LongRewardEval, step: Step) -> EvalSettings:
    """The core's settings, from those that both steps share and `probing`. Raises UsageError for a wrong one."""
    given: dict[str, Any] = {
        name: getattr(settings, name) for name in SHARED if name in settings.model_fields_set
    }
    model = settings.model
    if model and model.startswith(ENDPOINT):  # a local model's backend has other options than the core
        given["model_options"] = settings.model_options
    given |= {"model": model.removeprefix("local:") if model else None, "tasks": core_tasks(settings)}
    where = f"step '{step.id}', probing"
    checked = validate(EvalSettings, {**given, **settings.probing}, where=where)
    assert isinstance(checked, EvalSettings)
    return checked


def prepare_core(settings: LongRewardEval, step: Step, plugins: Plugins) -> Prepared:
    """Load what the core's suites ask. Raises MissingError for what a task lacks that the command line names."""
    return prepare_eval(core_settings(settings, step), plugins, named=was_named(step))


def answer_core(prepared: Prepared, spec: str, folder: Path, ctx: Context) -> Findings:
    """Ask the model the core's tasks."""
    return answer_eval(prepared, spec, folder, ctx)


def core_results(found: Findings, folder: Path) -> list[Result]:
    """The core's scores as results of this step: mean and interval under its names, a row for each question."""
    results = []
    for task, scores in found.scores.items():
        estimate = scores.get("estimate") or {}
        numbers = {name: estimate.get(name) for name in ("mean", "low", "high", "contexts", "drawn")}
        failed = {"no answer": scores["errors"]} if scores.get("errors") else {}
        file = folder / f"predictions-{slug(task)}.jsonl"
        rows = [row | _ids(row) for row in read_jsonl(file)] if file.is_file() else []
        total = {**scores, **numbers, "n": scores["n"], "failed": failed}
        results.append(Result(task, total, rows))
    return results


def _ids(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["item"], "context_id": row["context"]}
