"""What runs a step's shards: processes of this machine, Ray's tasks, or a Slurm array; or whoever starts them by hand.

All of them do the same to a shard (`lcx.shards.Shards.work`): a process does what it can, leaves it in the shard's
folder, and may be killed at any time. Engines only say where and when, and start again what ended badly.

A worker process is `python -m lcx.cli.shards work RUN STEP any`: it reads the step from the run's folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcx.context import Context, StepResult
from lcx.errors import LcxError, MissingError, UsageError
from lcx.formatting import cut_middle
from lcx.llm.limits import BudgetSpent
from lcx.llm.settings import Serving
from lcx.progress import duration
from lcx.settings import Settings
from lcx.shards import BEAT, FAILED, RUNNING, SPENT, STALE, Shard, Shards, load_step, run_table
from lcx.storage import Held, make_folder, write_text

__all__ = ["ENGINES", "run_shards", "work_free", "work_one"]

WORKER = "lcx.cli.shards"
"""The module that is run in a process of its own."""
TRIES = 3
"""How often a shard is begun whose process is killed or hangs."""
IN_A_ROW = 3
"""Shards that fail one after the other, after which a process begins no further one."""
LOOK = 0.2
TELL = 10.0
"""Seconds between looks at the workers, and between lines that tell of them."""
PATIENCE = 60.0
"""Seconds that workers get to end in once they are told to."""


def run_shards(shards: Shards, engine: str, *, workers: int, address: str = "") -> StepResult | None:
    """Run all shards of a step by an engine and put them together; None where a scheduler goes on by itself.

    Raises LcxError naming the shards that failed, and BudgetSpent where the step's budget is used up.
    """
    asks = isinstance(shards.step.settings, Serving) and _asks_server(shards.step.settings)
    if asks and isinstance(shards.step.settings, Serving):
        workers = min(workers, shards.step.settings.concurrency)
    shards.at_once = max(1, min(workers, shards.count))
    if (result := shards.prepare()) is not None:
        return result
    if engine == "slurm":
        return _slurm(shards, workers)
    runner: _Local | _Ray = (_Ray if engine == "ray" else _Local)(shards, workers, address)
    with runner:
        while True:
            todo = shards.todo()
            if todo and not shards.done:
                before = _progress(shards)
                runner.work(todo)
                if left := shards.todo():
                    _give_out_again(shards, left, before)
                    continue
            if (result := shards.gather()) is not None:
                return result


def _asks_server(settings: Settings) -> bool:
    return any(isinstance(value, str) and value.startswith("openai:") for _, value in settings)


def _progress(shards: Shards) -> int:
    return sum(one.calls for one in shards._spent()) + sum(one.passes for one in shards.every)


def _give_out_again(shards: Shards, left: Sequence[Shard], before: int) -> None:
    """Hand what is left of the budget to the shards that ran out. Raises where that would not help."""
    failed = [one for one in left if one.state == FAILED]
    if failed:
        reasons = Counter(str(one.status.get("reason")) for one in failed)
        (why, _), *others = reasons.most_common()
        raise LcxError(
            f"{len(failed)} of {shards.count} shards of step '{shards.step.id}' failed: "
            + ", ".join(str(one.index) for one in failed[:8])
            + (" ..." if len(failed) > 8 else ""),
            why=why + (f"; {len(others)} other reasons" if others else ""),
            hint=f"lcx status {shards.run.path} lists them; the same command goes on with them.",
        )
    if any(one.state == RUNNING and not one.gone for one in left):
        time.sleep(LOOK)  # another coordinator has them
    elif _progress(shards) == before:
        spent = [one for one in left if one.state == SPENT]
        if spent:
            total = sum(one.calls for one in shards._spent())
            raise BudgetSpent(
                f"the budget of step '{shards.step.id}' is spent",
                why=f"{total:,} calls in {shards.count} shards, every reply is kept; {len(left)} shards are not done",
                hint="The same command with a larger --max-calls, --max-tokens or --max-cost goes on from here.",
            )
        held = "; ".join(f"{one} is {one.gone or one.state}" for one in left[:3])
        raise LcxError(
            f"{len(left)} shards of step '{shards.step.id}' are not done",
            why=held,
            hint=f"lcx status {shards.run.path} says who has them; the same command goes on.",
        )
    if any(one.state == SPENT for one in left):
        shards.prepare()


# -- in one process


def work_one(shards: Shards, index: int) -> str:
    """Do one shard's part; returns its state. Errors of its own are in its status, and not raised."""
    try:
        return shards.work(index)
    except Held:
        return RUNNING
    except BudgetSpent:
        return SPENT
    except LcxError as bad:
        shards.ctx.log(f"shard {index} of {shards.count}: {bad.what}{f' ({bad.why})' if bad.why else ''}")
        return FAILED


def work_free(shards: Shards, skip: Sequence[int] = (), since: float | None = None) -> dict[int, str]:
    """Do the parts of shards that nobody is at, one after the other, until none is left; what came of each.

    Those that have failed or run out after the time `since` are not begun again.
    """
    ended: dict[int, str] = {}
    row, began = 0, time.time() if since is None else since
    whole = int(shards.plan.get("whole", 0))
    for index in range(shards.count):
        shard = shards.shard(index)
        over = shard.state in (FAILED, SPENT) and float(shard.status.get("ended") or 0) >= began
        at_work = shard.state == RUNNING and not shard.gone
        if index in skip or shard.passes > whole or over or at_work:
            continue
        state = ended[shard.index] = work_one(shards, shard.index)
        row = row + 1 if state == FAILED else 0
        if row >= IN_A_ROW:
            break
    return ended


# -- processes of this machine


class _Local:
    """So many processes, each of which takes free shards. One that is killed or hangs is replaced."""

    def __init__(self, shards: Shards, workers: int, address: str) -> None:
        self.shards, self.most = shards, workers
        self.tries: Counter[int] = Counter()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.number = 0
        self.since = time.time()

    def __enter__(self) -> _Local:
        return self

    def __exit__(self, *error: object) -> None:
        """End what still runs: told to first, so that it says where it stands."""
        for one in self.workers:
            with contextlib.suppress(ProcessLookupError):
                one.send_signal(signal.SIGINT)
        until = time.monotonic() + PATIENCE
        for one in self.workers:
            try:
                one.wait(max(0.1, until - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                one.kill()
                one.wait()

    def _start(self) -> None:
        shards = self.shards
        words = [sys.executable, "-P", "-m", WORKER, "work", str(shards.run.path)]
        words += [shards.run.key(shards.step), "any", "--device", shards.ctx.device]
        words += ["--parent", str(os.getpid()), "--since", str(self.since), "--trust", shards.asked()]
        words += ["--skip", ",".join(str(index) for index, count in self.tries.items() if count >= TRIES)]
        environment = {**os.environ, **_gpu(self.number)}
        log = make_folder(shards.root) / f"worker-{self.number}.log"
        self.number += 1
        with log.open("ab") as file:
            self.workers.append(
                subprocess.Popen(
                    words, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )  # fmt: skip

    def work(self, todo: Sequence[Shard]) -> None:
        """Have processes take these shards, until all are done or have ended for good."""
        shards, held = self.shards, False
        said = looked = time.monotonic()
        crashes, self.since = 0, time.time()
        for _ in range(min(self.most, len(todo))):
            self._start()
        while self.workers or held:
            time.sleep(LOOK)
            if time.monotonic() - looked > BEAT:
                looked = time.monotonic()
                self._end_hung()
            for one in [one for one in self.workers if one.poll() is not None]:
                self.workers.remove(one)
                if one.returncode in (0, 1):
                    continue
                mine = [shard for shard in shards.todo() if shard.here and shard.status.get("pid") == one.pid]
                crashes += not mine
                for shard in mine:
                    self.tries[shard.index] += 1
                    how = "was killed" if one.returncode < 0 else f"ended with {one.returncode}"
                    shards.ctx.log(f"    {shard}: its process {how}; begun again")
                if crashes > TRIES:
                    raise LcxError(
                        "workers end before they begin a shard",
                        why=f"the last ended with {one.returncode}",
                        hint=f"{shards.root} has their logs, worker-*.log",
                    )
                self._start()
            if time.monotonic() - said > TELL:
                said = time.monotonic()
                shards.ctx.log(f"    {told(shards)}")
            # Shards that another coordinator's workers are at: wait for their end, and take what it leaves
            open_ones = shards.todo() if not self.workers else []
            held = any(one.state == RUNNING and not one.gone for one in open_ones)
            if open_ones and not held and (free := self._free(open_ones)):
                for _ in range(min(self.most, len(free))):
                    self._start()
        gone = [index for index, count in self.tries.items() if count >= TRIES]
        if gone and any(one.index in gone for one in shards.todo()):
            raise LcxError(
                f"the process of shard {gone[0]} of {shards.count} was killed {TRIES} times",
                why="Memory may not be enough for so many at a time, or a task hangs.",
                hint=f"Fewer --workers; {shards.root} has their logs. The same command goes on.",
            )

    def _free(self, todo: Sequence[Shard]) -> list[Shard]:
        """Shards that have not ended by themselves, and may be begun again."""
        return [one for one in todo if one.state not in (FAILED, SPENT) and self.tries[one.index] < TRIES]

    def _end_hung(self) -> None:
        """Kill workers that give no sign of life: those that are stopped, or thrash."""
        pids = {one.pid: one for one in self.workers}
        for shard in self.shards.every:
            worker = pids.get(int(shard.status.get("pid") or 0))
            if worker is not None and shard.state == RUNNING and shard.silent > STALE * BEAT:
                self.shards.ctx.log(
                    f"    {shard}: no sign of life for {shard.silent:,.0f} s; its process is ended"
                )
                worker.kill()


def _gpu(number: int) -> dict[str, str]:
    """Where this machine has several GPUs, each worker sees one of them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else _gpus()
    return {"CUDA_VISIBLE_DEVICES": names[number % len(names)]} if len(names) > 1 else {}


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(found.splitlines()) if line.startswith("GPU")]


def told(shards: Shards) -> str:
    """How far the shards of a step are, in a line."""
    key = shards.run.key(shards.step)
    step = next(one for one in run_table(shards.run.path)["steps"] if one["step"] == key)
    if "shards" not in step:
        return f"{key}: {step['state']}"
    parts = [f"{step['done']} of {shards.count} shards done", f"{step['running']} running"]
    parts += [
        f"{step[name]} {name.replace('_', ' ')}"
        for name in ("failed", "out_of_budget", "stale")
        if step[name]
    ]
    parts += [f"{step['rows']:,} rows"] if step["rows"] else []
    parts += [f"{step['calls']:,} calls"] if step["calls"] else []
    parts += [f"cost {step['cost']:.4g}"] if step["cost"] else []
    parts += [f"about {duration(step['left'])} left"] if step.get("left") else []
    return ", ".join(parts)


# -- Ray


class _Ray:
    """Plain tasks of Ray, one a shard. Ray starts a task again whose process or machine went away."""

    def __init__(self, shards: Shards, workers: int, address: str) -> None:
        self.shards, self.most, self.address = shards, workers, address
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingError("the library 'ray' is not installed", hint="pip install 'lcx[dist]'") from None
        self.ray: Any = ray

    def __enter__(self) -> _Ray:
        options: dict[str, Any] = {"address": self.address}
        if not self.address:  # one of our own: nobody else is to reach it, and it holds nothing
            options = {"num_cpus": self.most, "_node_ip_address": "127.0.0.1", "object_store_memory": 1 << 27}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        dashboard = None if self.address else False
        for attempt in range(TRIES):
            try:
                self.ray.init(
                    **options, log_to_driver=False, include_dashboard=dashboard, configure_logging=False
                )
                break
            except Exception as bad:  # a busy machine takes longer to start one than Ray waits
                self.ray.shutdown()
                if self.address or attempt == TRIES - 1:
                    where = f"no cluster of Ray at '{self.address}'" if self.address else "Ray does not start"
                    raise LcxError(
                        where,
                        why=cut_middle(" ".join(str(bad).split()), 300),
                        hint="`ray status` shows a cluster; --engine local does without. Shards keep what they did.",
                    ) from bad
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()

    def work(self, todo: Sequence[Shard]) -> None:
        shards, ray, said = self.shards, self.ray, time.monotonic()
        gpus = 1 if _local_model(shards) and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(max_retries=TRIES, num_cpus=1, num_gpus=gpus)(_ray_shard)
        place = str(shards.run.path.absolute()), shards.run.key(shards.step)
        waiting = [one.index for one in todo]
        flying: dict[Any, int] = {}
        tries: Counter[int] = Counter()
        try:
            while waiting or flying:
                while waiting and len(flying) < self.most:
                    index = waiting.pop(0)
                    flying[task.remote(*place, index, shards.ctx.device, os.getcwd(), shards.asked())] = index
                ended, _ = ray.wait(list(flying), timeout=1.0)
                for one in ended:
                    index = flying.pop(one)
                    try:
                        ray.get(one)
                    except ray.exceptions.RayError as bad:
                        tries[index] += 1
                        why = cut_middle(" ".join(str(bad).split()), 160)
                        shards.ctx.log(f"    shard {index} of {shards.count}: {type(bad).__name__}: {why}")
                        if tries[index] < TRIES:
                            waiting.append(index)
                for one, index in flying.items():
                    shard = shards.shard(index)
                    if shard.state == RUNNING and shard.silent > STALE * BEAT:
                        ray.cancel(one, force=True)
                if time.monotonic() - said > TELL:
                    said = time.monotonic()
                    shards.ctx.log(f"    {told(shards)}")
        except BaseException:
            for one in flying:
                with contextlib.suppress(Exception):
                    ray.cancel(one, force=False)
            raise


def _local_model(shards: Shards) -> bool:
    return any(isinstance(value, str) and value.startswith("local:") for _, value in shards.step.settings)


def _ray_shard(path: str, key: str, index: int, device: str, folder: str, trust: str) -> str:
    """One shard in a process of Ray's."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    return work_one(open_shards(Path(path), key, device, trust), index)


# -- Slurm

ARRAY, JOIN = "array.sbatch", "join.sbatch"


def _slurm(shards: Shards, workers: int) -> StepResult | None:
    """Submit an array of the shards that are not done, and behind it a job that comes back here; or put them together.

    Without `sbatch` the files are written, and what to submit is said.
    """
    todo = shards.todo()
    if not todo:
        if (result := shards.gather()) is not None:
            return result
        todo = shards.todo()
    root, run = make_folder(shards.root), shards.run.path.absolute()
    key, last = shards.run.key(shards.step), root / "submitted"
    numbers = ",".join(str(one.index) for one in todo)
    mark = f"{numbers} {_progress(shards)}"
    if last.is_file() and last.read_text(encoding="utf-8") == mark:
        last.unlink()
        first = todo[0]
        raise LcxError(
            f"{len(todo)} shards of step '{shards.step.id}' came no further in the last array",
            why=f"{first} is {first.gone or first.state}: {first.status.get('reason') or 'no reason was left'}",
            hint=f"{root} has the jobs' output; the same command submits them again.",
        )
    for one in (str(run), str(root.absolute()), os.getcwd()):
        if not one.isprintable():  # a line's end in it would begin a line of the job's script
            raise UsageError(
                f"{one!r} cannot be written into a job's script",
                hint="Take a folder of another name: --run DIR",
            )
    program = f"exec {shlex.quote(sys.executable)} -P -m {WORKER}"
    place = f"{shlex.quote(str(run))} {shlex.quote(key)}"
    common = f"#SBATCH --output={root.absolute()}/slurm-%A_%a.out\n#SBATCH --chdir={os.getcwd()}\n"
    options = f"--device {shards.ctx.device} --trust {shards.asked()}"
    name = f"#SBATCH --job-name=lcx-{shards.step.id}\n"
    write_text(
        root / ARRAY,
        f"#!/bin/bash\n{name}#SBATCH --array={numbers}%{workers}\n{common}"
        f"{program} work {place} $SLURM_ARRAY_TASK_ID {options}\n",
    )
    write_text(
        root / JOIN,
        f"#!/bin/bash\n{name}{common.replace('_%a', '')}{program} slurm {place} {options} --workers {workers}\n",
    )
    if not shutil.which("sbatch"):
        shards.ctx.log(
            f"there is no sbatch here; on a machine that has it:\n"
            f"  job=$(sbatch --parsable {root / ARRAY})\n"
            f"  sbatch --dependency=afterany:$job {root / JOIN}"
        )
        return None
    job = _sbatch("--parsable", str(root / ARRAY)).split(";")[0]
    after = _sbatch("--parsable", f"--dependency=afterany:{job}", str(root / JOIN)).split(";")[0]
    write_text(last, mark)
    shards.ctx.log(f"{shards.step.id}: {len(todo)} shards are in job {job}, job {after} joins them")
    shards.ctx.log(f"    lcx status {shards.run.path} says how far they are")
    return None


def _sbatch(*words: str) -> str:
    done = subprocess.run(["sbatch", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LcxError(
            "sbatch does not take the job",
            why=" ".join(done.stderr.split()) or f"it ended with {done.returncode}",
            hint="SBATCH_PARTITION, SBATCH_ACCOUNT and other SBATCH_ variables give what it wants.",
        )
    return done.stdout.strip()


ENGINES = ("local", "ray", "slurm")


# -- a process of its own


def open_shards(path: Path, key: str, device: str = "auto", trust: str = "") -> Shards:
    """The shards of a step that is prepared; `trust` as `load_step` has it. Raises MissingError where it is not."""
    ctx = Context(device=device)
    step, run = load_step(path, key, ctx, trust)
    shards = Shards(step, run, ctx, ctx.plugins, 1, at_once=1)
    count = int(shards.plan.get("shards", 0))
    if not count:
        raise MissingError(
            f"step '{key}' of {path} is not shared out", hint="lcx STAGE --engine local, or --shard I/N"
        )
    shards.count, shards.at_once = count, int(shards.plan["at_once"])
    return shards
