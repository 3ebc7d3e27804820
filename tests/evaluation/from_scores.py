"""The renderers as functions of scores, as `scores.json` holds them: what a test makes up is a result first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from lcx.evaluation.result import Result, result_of
from lcx.evaluation.show import png, sentences, terminal


def _results(value: Any, task: str = "task") -> Any:
    """Scores by model, or by task and model, as results; everything else as it is."""
    if isinstance(value, Mapping) and value and all(isinstance(one, Mapping) for one in value.values()):
        first = next(iter(value.values()))
        if first and all(isinstance(one, Mapping | Result) for one in first.values()) and "view" not in first:
            return {name: _results(one, name) for name, one in value.items()}
        return {model: result_of(task, one) for model, one in value.items()}
    return value


def _of_scores(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*values: Any, **options: Any) -> Any:
        return function(*map(_results, values), **options)

    return call


curve_text, grid_text, lengths_text = map(
    _of_scores, (terminal.curve_text, terminal.grid_text, terminal.lengths_text)
)
perplexity_text, suites_text, table_text = map(
    _of_scores, (terminal.perplexity_text, terminal.suites_text, terminal.table_text)
)
score_table, task_text, tasks_text = map(
    _of_scores, (terminal.score_table, terminal.task_text, terminal.tasks_text)
)
curve_png, draw_task, draw_tasks = map(_of_scores, (png.curve_png, png.draw_task, png.draw_tasks))


def loss_line(scores: Mapping[str, Any], who: str) -> sentences.Line:
    return sentences.loss_line(result_of("task", scores), who)


def shape_line(scores: Mapping[str, Any], who: str) -> str:
    return sentences.shape_line(result_of("task", scores), who)
