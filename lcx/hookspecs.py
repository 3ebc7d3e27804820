"""The hooks a plugin may implement. Import `hookimpl` from `lcx` to mark an implementation.

A stage hook gets the resolved `step`, the `run` directory and the context `ctx`, and returns a
`StepResult`, or None where `step.method` is not its own. The first result wins; `tryfirst` overrides,
`wrapper=True` wraps. A method whose `Stage`s name their functions needs no stage hook: the core's own, which come
last, run those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from lcx.context import Context, StepResult
    from lcx.recipe import Step
    from lcx.run import Run

hookspec = pluggy.HookspecMarker("lcx")

HOOK_API = 2
"""The version of these hooks: 2 came with `lcx_register_commands`. A plugin may say `HOOK_API = 2` in its module: where
that is later than this, it is told so, and hooks that are unknown here are warnings."""


@hookspec(firstresult=True)
def lcx_synth(step: Step, run: Run, ctx: Context) -> StepResult | None:
    """Make data: write bundles into `run.folder(step) / "data"`."""


@hookspec(firstresult=True)
def lcx_score(step: Step, run: Run, ctx: Context) -> StepResult | None:
    """Score, filter or pair the data of an earlier step; write bundles or rows into the step's folder."""


@hookspec(firstresult=True)
def lcx_train(step: Step, run: Run, ctx: Context) -> StepResult | None:
    """Train a model on an earlier step's data; save it into `run.folder(step) / "model"`."""


@hookspec(firstresult=True)
def lcx_eval(step: Step, run: Run, ctx: Context) -> StepResult | None:
    """Evaluate a model; write predictions, scores and plots into the step's folder."""


@hookspec(firstresult=True)
def lcx_forecast(step: Step, run: Run, ctx: Context) -> dict[str, Any] | None:
    """What the step will cost (calls, tokens, optimizer steps), for --dry-run. Must import no torch."""


@hookspec
def lcx_register_methods(register: Callable[..., None]) -> None:
    """Register methods: `register(Method(name, summary, {"synth": Stage(Settings, "module:function"), ...}))`."""


@hookspec
def lcx_register_recipes(register: Callable[..., None]) -> None:
    """Register folders of recipe files: `register(path_to_folder)`."""


@hookspec
def lcx_register_llms(register: Callable[..., None]) -> None:
    """Register text generators: `register("name", "module:factory")`, used as `--llm name:MODEL`. The factory
    takes the model and the options, and returns an `LLM` of `lcx.llm.protocol`.
    """


@hookspec
def lcx_register_retrievers(register: Callable[..., None]) -> None:
    """Register retrievers: `register("name", "module:factory")`. The factory takes what follows the colon of a spec and
    the options, and returns a `Retriever` of `lcx.retrieval`.
    """


@hookspec
def lcx_register_losses(register: Callable[..., None]) -> None:
    """Register preference losses: `register("name", loss)`, where `loss` is a `Loss` of
    `lcx.training.losses`, or the "module:attribute" of one.
    """


@hookspec
def lcx_register_probes(register: Callable[..., None]) -> None:
    """Register tasks of an evaluation: `register("family:name", "module:TASK")`, a `Task` of `lcx.evaluation.task`."""


@hookspec
def lcx_register_metrics(register: Callable[..., None]) -> None:
    """Register metrics: `register("name", "module:function")`, a function of the prediction and its row."""


@hookspec
def lcx_register_commands(register: Callable[..., None]) -> None:
    """Register subcommands: `register("name", "module:attribute", help="One line.")` of a function or a `typer.Typer`,
    imported when the command is called.
    """
