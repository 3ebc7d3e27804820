"""Running steps: check what they need, fingerprint their inputs, call the stage's hook, record the
outcome.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.context import Context, StepResult
from lcx.errors import LcxError, PluginError
from lcx.recipe import Step
from lcx.run import Run, digest

if TYPE_CHECKING:
    from lcx.plugins import Plugins

STEP_FILES = {"input": "data", "model": "model"}


def fingerprint(step: Step, run: Run) -> dict[str, Any]:
    """What a step's outputs follow from: its settings, and a digest of every input. Raises MissingError
    early.
    """
    values = step.values()
    volatile = type(step.settings).volatile()
    inputs: dict[str, str] = {}
    for key, what in STEP_FILES.items():
        reference = values.get(key)
        if not reference:
            continue
        if str(reference).startswith("step:"):
            run.resolve(reference, what)
            inputs[key] = run.digest_of(str(reference).removeprefix("step:"))
        elif Path(str(reference)).expanduser().exists():
            inputs[key] = digest(_listing(Path(str(reference)).expanduser()))
    if values.get("corpus"):
        from lcx.corpus.documents import corpus_fingerprint

        inputs["corpus"] = corpus_fingerprint(str(values["corpus"]))
    return {
        "stage": step.stage,
        "method": step.method,
        "settings": {k: v for k, v in values.items() if k not in volatile},
        "inputs": inputs,
    }


def _listing(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a file or folder: cheap, and enough to notice a change of weights."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def execute(step: Step, run: Run, ctx: Context, plugins: Plugins) -> StepResult:
    """Run one step, or hand back what it reported if it is already done with the same settings and inputs."""
    hook: Callable[..., StepResult | None] = getattr(plugins.manager.hook, f"lcx_{step.stage}")
    prints = fingerprint(step, run)
    if ctx.rank != 0:  # rank 0 alone writes the run; the others only work
        return _call(hook, step, run, ctx)
    with run.lock():
        how = run.begin(step, prints, force=ctx.force)
        if how == "done":
            ctx.log(f"{step.id}: already done in {run.folder(step)} (--force starts over)")
            return run.result(step)
        if how == "resume":
            ctx.log(f"{step.id}: resuming in {run.folder(step)}")
        try:
            result = _call(hook, step, run, ctx)
        except KeyboardInterrupt:
            run.stop(step, "interrupted")
            raise
        except BaseException as failure:
            with contextlib.suppress(OSError, LcxError):  # a full disk must not hide the first error
                run.stop(step, "failed", f"{type(failure).__name__}: {failure}")
            raise
        run.finish(step, result)
    return result


def _call(hook: Callable[..., StepResult | None], step: Step, run: Run, ctx: Context) -> StepResult:
    result = hook(step=step, run=run, ctx=ctx)
    if result is None:
        raise PluginError(
            f"no plugin ran the step '{step.id}' (stage {step.stage}, method {step.method})",
            hint="`lcx plugins check` shows which hooks each plugin implements.",
        )
    return result


def forecast(step: Step, run: Run, ctx: Context, plugins: Plugins) -> Mapping[str, Any]:
    """What a step would cost, for --dry-run; empty where its method has no forecast."""
    return plugins.manager.hook.lcx_forecast(step=step, run=run, ctx=ctx) or {}
