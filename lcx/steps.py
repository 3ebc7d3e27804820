"""Running steps: check what they need, fingerprint their inputs, call the stage's hook, record the
outcome.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx import __version__
from lcx.context import Context, StepResult
from lcx.errors import LcxError, PluginError
from lcx.hub import tiny_folder, tiny_spec
from lcx.paths import cache_folder
from lcx.recipe import Step
from lcx.run import LOOSE, Run, digest
from lcx.work.files import sha256_file

if TYPE_CHECKING:
    from lcx.plugins import Plugins

STEP_FILES = {"input": "data", "model": "model"}
HASHED_WHOLE = 16 << 20
"""Bytes up to which a file's contents enter a fingerprint."""


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
            inputs[key] = run.digest_of(str(reference).removeprefix("step:"))
        elif step_id := _named_step(reference):  # local:step:ID
            run.llm(str(reference))
            inputs[key] = run.digest_of(step_id)
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
        names = list(given.values()) if isinstance(given, Mapping) else list(given) if several else [given]
        for name in names:
            if step_id := _named_step(name):
                if not name.startswith("step:"):
                    run.llm(name)
                inputs[f"{key} {name}" if several else key] = run.digest_of(step_id)
                continue
            path = _named_path(name)
            if path is not None:
                (others if key in keeps else inputs)[f"{key} {name}"] = digest(_listing(path))
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
    return [(p.name, (found := p.stat()).st_size, _mark(p, found)) for p in files]


def _mark(path: Path, found: os.stat_result) -> str:
    return sha256_file(path) if found.st_size <= HASHED_WHOLE else str(found.st_mtime_ns)


def ensure_tiny(spec: str, ctx: Context) -> str:
    """The folder of the tiny model that a spec names, trained now where the cache lacks it; any other spec as it is."""
    if (named := tiny_spec(spec)) is None:
        return spec
    folder = tiny_folder(*named)
    return str(folder if folder.is_dir() else train_tiny(named[1], ctx, name=named[0]))


def train_tiny(seed: int, ctx: Context, *, name: str = "tiny", fresh: bool = False) -> Path:
    """The folder of a tiny model of a seed, trained on the spot where the cache has none, with progress."""
    from lcx.training.curriculum import load_or_train_base

    def tell(stage: str, step: int, limit: int, loss: float) -> None:
        if stage == "copy" and step == 1:
            ctx.log(f"training the {name} model of seed {seed}: about a minute, cached afterwards")
        ctx.pulse(f"    {stage}: step {step} of at most {limit}, loss {loss:.3f}")

    return load_or_train_base(seed, cache_folder() / "tiny", fresh=fresh, on_progress=tell, name=name)


def execute(step: Step, run: Run, ctx: Context, plugins: Plugins) -> StepResult:
    """Run one step, or hand back what it reported if it is already done with the same settings and inputs."""
    hook: Callable[..., StepResult | None] = getattr(plugins.manager.hook, f"lcx_{step.stage}")
    ctx = replace(ctx, plugins=plugins, ready_model=lambda spec: ensure_tiny(spec, ctx))
    if ctx.rank != 0:  # rank 0 alone writes the run; the others only work, once it has begun the step
        ctx.wait()
        run.reload()
        return run.result(step) if run.state(run.key(step)) == "done" else _call(hook, step, run, ctx)
    prints = fingerprint(step, run)
    with run.lock():
        how = run.begin(step, prints, force=ctx.force)
        ctx.wait()
        if how == "done":
            ctx.log(f"{step.id}: already done in {run.folder(step)} (--force starts over)")
            return replace(run.result(step), reused=True)
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
    ctx.ready_model(str(getattr(step.settings, "tokenizer", None)))
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


def forecast_step(step: Step, run: Run, ctx: Context) -> dict[str, Any]:
    """What a train or eval step of the core's will do, from its settings and the data if that is there. Torch-free."""
    if step.stage == "eval":
        from lcx.evaluation.planning import eval_forecast

        return eval_forecast(step, ctx.plugins)
    from lcx.training.train import forecast

    return forecast(step, run, ctx)
