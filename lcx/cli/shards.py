"""`lcx merge` and `lcx status`, the options that share a step out, and the processes that engines start.

`python -m lcx.cli.shards work RUN STEP any` is a worker: it does shards that nobody is at. No torch.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.cli.stages import RunJob
    from lcx.context import StepResult
    from lcx.recipe import Step
    from lcx.shards import Shards

WORKERS, FEWEST = 2, 16
"""Processes where none are given, and the shards that a step is cut into at the least."""


@dataclass(frozen=True)
class Share:
    """How a step is shared out: by an engine, or one shard by hand."""

    engine: str | None = None
    shards: int | None = None
    workers: int | None = None
    shard: str | None = None
    address: str | None = None

    @property
    def given(self) -> bool:
        return any(value is not None for value in vars(self).values())


def checked(share: Share) -> Share | None:
    """The options, or None where none is given. Raises UsageError for those that do not go together."""
    from lcx.errors import UsageError
    from lcx.shards import MOST

    if not share.given:
        return None
    if share.shard is not None and (share.engine or share.shards):
        raise UsageError(
            "--shard is one shard by hand; --engine and --shards run all of them",
            hint="--shard 0/16, or --engine local --shards 16",
        )
    if share.shard is None and share.engine is None:
        raise UsageError(
            "--shards, --workers and --address belong to --engine",
            hint="--engine local --shards 16 --workers 2",
        )
    if share.address and share.engine != "ray":
        raise UsageError("--address is where Ray is reached", hint="--engine ray --address auto")
    if share.shards is not None and not 1 <= share.shards <= MOST:
        raise UsageError(f"--shards {share.shards}: 1 to {MOST:,}", hint="--shards 16")
    return share


def share_step(job: RunJob, step: Step, share: Share, words: Sequence[str]) -> dict[str, Any]:
    """Run a step, or one shard of it, and return what --json prints about it. `words` are the command without options
    of sharing.
    """
    from lcx.cli import show
    from lcx.engines import run_shards
    from lcx.errors import UsageError
    from lcx.shards import Shards, parse_shard

    started = time.monotonic()
    index, count = parse_shard(share.shard) if share.shard is not None else (None, 0)
    workers = share.workers or (WORKERS if share.engine == "local" else os.cpu_count() or WORKERS)
    count = count or share.shards or _prepared(job, step) or max(FEWEST, 4 * workers)
    if share.shard is not None and job.request.force:
        raise UsageError(
            "--force starts a whole step over, and not one shard",
            hint="Once with --engine local --force; or remove the step's folder, which forgets paid replies, too.",
        )
    shards = Shards(step, job.run, job.ctx, job.plugins, count, at_once=share.workers or 0)
    shards.words = shlex.join(["lcx", *(word for word in words if word != "--force")])
    notes: list[str] = []
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        if share.engine is not None:
            result = run_shards(shards, share.engine, workers=workers, address=share.address or "")
        else:
            result, notes = _by_hand(shards, index)
    job.run.reload()
    if result is not None:
        return show.done_report(step, job.run, result, started)
    return _shared_report(job, step, shards, notes, started)


def _prepared(job: RunJob, step: Step) -> int:
    """Among how many shards a step is shared out already; 0 where it is not."""
    from lcx.shards import Shards

    return (
        0 if job.request.force else int(Shards(step, job.run, job.ctx, job.plugins, 1).plan.get("shards", 0))
    )


def _by_hand(shards: Shards, index: int | None) -> tuple[StepResult | None, list[str]]:
    """Prepare the step if need be, and do one shard's part, or those that are free."""
    from lcx.engines import work_free
    from lcx.llm.limits import BudgetSpent
    from lcx.shards import DONE, numbers

    if (result := shards.prepare()) is not None:
        return result, []
    if not shards.todo() and (result := shards.gather()) is not None:
        return result, []
    try:
        ended = work_free(shards) if index is None else {index: shards.work(index)}
    except BudgetSpent as bad:
        raise BudgetSpent(
            f"shard {index} of {shards.count} has spent its part of the budget",
            why=f"{bad.what}; {bad.why}",
            hint="What others leave over is handed out once none runs: the same command then goes on. A larger "
            "--max-calls, --max-tokens or --max-cost is shared out alike.",
        ) from None
    notes = [f"shard {one} of {shards.count}: {state}" for one, state in ended.items() if state != DONE]
    left = [one.index for one in shards.todo()]
    if left:
        notes.append(f"{len(left)} of {shards.count} shards are left: {numbers(left)}")
    else:
        notes.append(f"all {shards.count} shards are done: lcx merge {shards.run.path} {_key(shards)}")
    return None, notes


def _key(shards: Shards) -> str:
    return shards.run.key(shards.step)


def _shared_report(
    job: RunJob, step: Step, shards: Shards, notes: list[str], started: float
) -> dict[str, Any]:
    left = shards.todo()
    counts = {"shards": shards.count, "shards done": shards.count - len(left)}
    return {
        "step": step.id,
        "stage": step.stage,
        "state": job.run.state(_key(shards)),
        "reused": False,
        "run": str(job.run.path),
        "folder": str(job.run.folder(step)),
        "counts": counts,
        "metrics": {},
        "files": {},
        "notes": notes,
        "seconds": round(time.monotonic() - started, 3),
    }


# ---- merge

merge_app = typer.Typer(**APP)


@merge_app.command(
    name="merge",
    epilog=opt.examples(
        "lcx merge runs/in2",
        "lcx merge runs/in2 synth",
        "lcx merge runs/in2 --compact",
        after="What shards are, and who runs them: docs/scale.md.",
    ),
)
def merge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    step: Annotated[
        str | None, typer.Argument(metavar="STEP", help="One step; all that are in shards by default.")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Remove the shards of done steps, whose work the steps have.")
    ] = False,
    device: opt.Device = "auto",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Put a step's shards together: checks that all are there, done and belong, and writes what one process would."""
    from lcx.cli import show
    from lcx.context import stderr_console
    from lcx.engines import open_shards
    from lcx.errors import LcxError, MissingError
    from lcx.shards import numbers, shared_steps

    folder = _run_folder(run)
    if not (folder / "manifest.json").is_file():
        raise MissingError(
            f"{folder} is no run: it has no manifest.json", hint="`lcx runs list` shows what runs there are."
        )
    known = shared_steps(folder)
    keys = known if step is None else [step]
    if not keys or (step is not None and step not in known):
        raise MissingError(
            f"no step of {folder} is shared out"
            if not known
            else f"step '{step}' of {folder} is not shared out",
            why="" if not known else f"steps in shards: {', '.join(known)}",
            hint="--engine or --shard I/N of `lcx synth`, `lcx score` and `lcx eval` share a step out.",
        )
    reports = []
    for key in keys:
        started = time.monotonic()
        shards = open_shards(folder, key, device)
        shards.ctx.console = stderr_console(opt.STATE.quiet)
        for note in shards.step.notes:
            shards.ctx.log(f"{key}: {note}, or {shards.command('any')} in place of lcx merge")
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
            result = shards.gather()
        if result is None:
            left = [one.index for one in shards.todo()]
            raise LcxError(
                f"step '{key}' goes on: what its shards did is put together, and the next part is to be shared out",
                why=f"shards {numbers(left)} have the {_nth(int(shards.plan['whole']) + 1)} pass to do",
                hint=shards.command(left[0] if left else 0) + ", and so on; then lcx merge again",
            )
        before, after = shards.compact() if compact else (0, 0)
        report = show.done_report(shards.step, shards.run, result, started)
        sizes = journal_sizes(Path(report["folder"]))
        report |= {"bytes": sizes, **({"compacted": {"before": before, "after": after}} if compact else {})}
        reports.append(report)
        if not json:
            print(show.step_summary(report))
            print(f"  {_sizes(sizes)}")
            if compact:
                print(f"  shards removed: {before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB")
    if json:
        show.emit_json({"run": str(folder), "steps": reports})


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _run_folder(run: str) -> Path:
    from lcx.paths import runs_folder

    folder = Path(run).expanduser()
    return runs_folder() / run if not folder.exists() and (runs_folder() / run).is_dir() else folder


def journal_sizes(folder: Path) -> dict[str, int]:
    """Bytes of a step's own journals and ledgers, and of its shards."""
    found = {"journals": 0, "shards": 0}
    for path in folder.rglob("*"):
        if path.is_file() and "shards" in path.relative_to(folder).parts:
            found["shards"] += path.stat().st_size
        elif path.is_file() and path.parent == folder and path.name.endswith((".sqlite", "journal.jsonl")):
            found["journals"] += path.stat().st_size
    return found


def _sizes(sizes: Mapping[str, int]) -> str:
    text = f"journals {sizes['journals'] / 1e6:,.1f} MB"
    shards = sizes["shards"]
    return text + (f", shards {shards / 1e6:,.1f} MB (--compact removes them)" if shards else "")


# ---- status

status_app = typer.Typer(**APP)


@status_app.command(
    name="status",
    epilog=opt.examples("lcx status runs/in2", "lcx status runs/in2 --watch", "lcx status runs/in2 --json"),
)
def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Print it again until all is done.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often --watch prints.")
    ] = 10.0,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Show a run's steps and shards: done, running, waiting or failed and why; rows, calls, cost, time left."""
    from lcx.cli import show
    from lcx.shards import run_table

    folder = _run_folder(run)
    while True:
        found = run_table(folder)
        if json:
            show.emit_json(found)
        else:
            print(status_text(found), flush=True)
        if not watch or all(step["state"] in ("done", "failed", "stale") for step in found["steps"]):
            return
        time.sleep(every)
        if not json:
            print(flush=True)


SHOWN = 12
"""Shards of a step that are listed one by one where they are of no special interest."""


def status_text(found: Mapping[str, Any]) -> str:
    """The table of a run's steps and shards."""
    from lcx.cli import show
    from lcx.progress import duration
    from lcx.shards import numbers

    rows: list[tuple[str, ...]] = []

    def cells(name: str, one: Mapping[str, Any], state: str) -> tuple[str, ...]:
        number = ["" if one.get(key) is None else f"{one[key]:,}" for key in ("rows", "calls")]
        cost = "" if one.get("cost") is None else f"{one['cost']:.4g}"
        left = "" if one.get("left") is None else duration(one["left"])
        return (name, state, *number, cost, left, str(one.get("reason") or ""))

    for step in found["steps"]:
        state = str(step["state"])
        shards = step.get("shards") or []
        if shards:
            parts = [f"{step['done']}/{len(shards)} shards done"]
            parts += [
                f"{step[name]} {name.replace('_', ' ')}"
                for name in ("running", "failed", "out_of_budget", "stale")
                if step[name]
            ]
            state = ", ".join(parts) + (f", pass {step['pass']}" if step["pass"] > 1 else "")
        rows.append(cells(step["step"], {**step, "reason": "" if shards else step["reason"]}, state))
        whole = len(shards) <= SHOWN
        dull = [one for one in shards if one["state"] in ("done", "waiting") and not whole]
        rows += [
            cells(f"  {one['shard']}/{len(shards)}", one, one["state"]) for one in shards if one not in dull
        ]
        for kind in ("done", "waiting"):
            if mine := [one["shard"] for one in dull if one["state"] == kind]:
                rows.append((f"  {numbers(mine)}", kind, "", "", "", "", ""))
    head = ("step", "state", "rows", "calls", "cost", "left", "why")
    title = f"{found['run']} (recipe {found['recipe']})"
    return f"{title}\n{show.table(rows, head) if rows else 'no step has begun'}"


# ---- processes of engines


def main(argv: Sequence[str]) -> int:
    """A worker, or the job that joins a Slurm array."""
    import argparse

    from lcx.engines import FAILED, SPENT, open_shards, run_shards, work_free, work_one
    from lcx.process import die_with

    made = argparse.ArgumentParser(prog="python -m lcx.cli.shards")
    made.add_argument("what", choices=("work", "slurm"))
    made.add_argument("run", type=Path)
    made.add_argument("step")
    made.add_argument("shard", nargs="?", default="any")
    made.add_argument("--device", default="auto")
    made.add_argument("--workers", type=int, default=1)
    made.add_argument("--parent", type=int, default=0)
    made.add_argument("--since", type=float)
    made.add_argument("--skip", default="")
    made.add_argument("--trust", default="")
    asked = made.parse_args(argv)
    if asked.parent:
        die_with(asked.parent)
    shards = open_shards(asked.run, asked.step, asked.device, asked.trust)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        if asked.what == "slurm":
            run_shards(shards, "slurm", workers=asked.workers)
            return 0
        if asked.shard == "any":
            ended = work_free(shards, [int(one) for one in asked.skip.split(",") if one], asked.since)
            return int(FAILED in ended.values())
        return int(work_one(shards, int(asked.shard)) in (FAILED, SPENT))


def _process() -> int:
    from lcx.cli.boundary import INTERRUPTED, render
    from lcx.errors import LcxError
    from lcx.process import ended_gently

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with ended_gently():
            return main(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except LcxError as bad:
        print(render(bad), file=sys.stderr, flush=True)
        return bad.exit_code


if __name__ == "__main__":
    sys.exit(_process())
