"""What an eval step will do, as far as settings and files tell: contexts, questions, what is left out. Torch-free."""

from __future__ import annotations

from typing import Any

from lcx.errors import MissingError
from lcx.evaluation.limiting import limited
from lcx.evaluation.planning import Planned, left_out, plan_tasks
from lcx.evaluation.probes import Probe, ProbeOptions, Suite, SuiteOptions
from lcx.evaluation.settings import EvalSettings
from lcx.plugins import Plugins
from lcx.recipe import Step

__all__ = ["eval_forecast", "forecast_tasks"]


def eval_forecast(step: Step, plugins: Plugins) -> dict[str, Any]:
    """Contexts and questions by task, and the tasks that would be left out with the line that gets their data."""
    settings = step.settings
    assert isinstance(settings, EvalSettings)
    asked = forecast_tasks(settings, plugins)
    found: dict[str, Any] = {"model": settings.model}
    if asked["contexts"] or not asked["unknown"]:
        found |= {"contexts": asked["contexts"], "queries": asked["queries"]}
    if settings.served and "queries" in found:
        found["calls"] = sum(asked["queries"].values())
    if asked["left out"]:
        found["left out"] = asked["left out"]
    if asked["unknown"]:
        found["note"] = f"not counted before the model's window is known: {', '.join(asked['unknown'])}"
    return found


def forecast_tasks(settings: EvalSettings, plugins: Plugins) -> dict[str, Any]:
    """`contexts` in all, `queries` by task, `left out` with the reason, and the tasks that are `unknown`."""
    found: dict[str, Any] = {"contexts": 0, "queries": {}, "left out": {}, "unknown": []}
    planned = plan_tasks(settings, plugins)
    lacks: dict[str, MissingError] = {}
    for one in planned:
        try:
            counted = _counts(one)
        except MissingError as lack:
            lacks[one.task] = lack
            continue
        if counted is None:
            found["unknown"].append(one.task)
            continue
        found["contexts"] += counted[0]
        if counted[1]:
            found["queries"][one.task] = counted[1]
    found["left out"] = left_out(planned, lacks)
    return found


def _counts(one: Planned) -> tuple[int, int] | None:
    """Contexts and questions of a task; None where only the model's window tells."""
    settings = one.settings
    if one.what is None:
        from lcx.evaluation.bridge import require_lm_eval

        require_lm_eval(one.task)
        return None
    if isinstance(one.what, Suite):
        options = SuiteOptions(
            settings.data.get(one.what.family),
            settings.prompts.get(one.what.family),
            settings.limit,
            settings.sample_seed,
        )
        bundles = limited(one.what.load(options).bundles, settings.limit)
        return len(bundles), sum(len(bundle.branches) for bundle in bundles)
    contexts, questions = settings.questions(one.base or one.task)
    if contexts is not None and questions is not None:
        return contexts, questions
    if not isinstance(one.what, Probe) or one.what.questions is None or not settings.lengths:
        return None
    size = ProbeOptions(
        settings.size(one.task),
        sets=settings.sets,
        lengths=settings.lengths,
        depths=settings.depths,
        knobs=settings.options.get(one.task, {}),
    )
    contexts = settings.sets * len(settings.lengths)
    questions = contexts * one.what.questions(size)
    if settings.limit is not None:
        return min(contexts, settings.limit), min(questions, settings.limit)
    return contexts, questions
