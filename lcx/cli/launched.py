"""A train step in several processes: from launch options to a plan, and from a plan to the step's report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lcx.cli.options import STATE
from lcx.errors import UsageError

if TYPE_CHECKING:
    from lcx.cli.work import Request, RunJob
    from lcx.recipe import Step
    from lcx.training.plan import LaunchOptions, LaunchPlan


def plan_for(job: RunJob, step: Step, ask: LaunchOptions) -> LaunchPlan | None:
    """The plan of a train step, or None where it runs in this process. Raises UsageError, MissingError."""
    if not ask.given():
        return None
    from lcx.training.plan import plan_launch
    from lcx.training.settings import TrainSettings

    if not isinstance(step.settings, TrainSettings):
        raise UsageError(
            f"step '{step.id}' trains in one process",
            why=f"The method {step.method} brings a training of its own.",
            hint="Leave out --gpus, --strategy and their like.",
        )
    return plan_launch(ask, job.request.device, step.values(), step=step.id)


def run_step(job: RunJob, step: Step, flags: Mapping[str, Any], plan: LaunchPlan | None) -> dict[str, Any]:
    """Run a train step by a plan and return what --json prints about it; `flags` are its settings by flags."""
    from lcx.cli import work
    from lcx.steps import fingerprint

    if plan is None:
        return work.run_step(job, step)
    # What lacks or differs is said before any process starts, and a step that is done needs none
    how = job.run.standing(step, fingerprint(step, job.run), force=job.request.force)
    if how == "done":
        return work.run_step(job, step)
    from lcx.training import launch

    job.ctx.log(f"{step.id}: {plan.describe()}")
    if plan.strategy == "ddp" and step.values().get("tuning") == "full" and not plan.cpu:
        job.ctx.log(
            "    ddp keeps all weights and optimizer states on every GPU; --strategy fsdp shares them"
        )
    began = time.monotonic()
    report = launch.run(plan, words(job.request, step, str(job.run.path), flags))
    job.run.reload()
    return {**report, "seconds": round(time.monotonic() - began, 3)}


def words(request: Request, step: Step, run: str, flags: Mapping[str, Any]) -> list[str]:
    """The command line of each process: the same step, without launch options, in the words of the request."""
    found = ["train", "--recipe", request.recipe, "--step", step.id, "--run", run]
    for text in request.sets:
        found += ["--set", text]
    for key, value in flags.items():
        found += [f"--{key.replace('_', '-')}", str(value)]
    if request.device != "auto" and "device" not in flags:
        found += ["--device", request.device]
    found += ["--force"] if request.force else []
    found += ["--quiet"] if STATE.quiet else []
    return found + (["--verbose"] if STATE.verbose else [])


def planned(plan: LaunchPlan | None, job: RunJob, step: Step, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What --dry-run --json adds to a step: the processes, their config and command; empty for one process."""
    if plan is None:
        return {}
    command = shlex.join(["lcx", *words(job.request, step, str(job.run.path), flags)])
    return {"launch": {**plan.as_dict(), "command": command}}


def described(planned: Mapping[str, Any], plan: LaunchPlan | None) -> str:
    """What --dry-run prints about a step, and about the processes that it would start."""
    from lcx.cli import show

    text = show.plan(planned)
    if plan is None:
        return text
    import yaml

    config = yaml.safe_dump(dict(plan.config), sort_keys=False).splitlines()
    return "\n".join(
        [text, f"  launch: {plan.describe()}, by this accelerate config", *(f"    {line}" for line in config)]
    )
