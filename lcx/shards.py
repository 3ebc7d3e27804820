"""A step that several processes share: its shards on disk, what each may spend, and how they are joined.

A shard runs the step's own function, does the items that are dealt to it (`lcx.context.Deal`), and keeps them in
`STEP/shards/00003-of-00016`: a journal, a ledger of calls, a status, a lock. Whoever gathers copies all of them into
the step's own journal and ledger and runs the same function once more, which then has nothing left to do but to write:
the bytes are those of a step that one process did alone. Where a later part depends on all of an earlier one, the
shards run once for each (a pass), and gathering opens the next.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lcx.context import DEALT_BY, Context, Deal, PartDone, StepResult
from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.ledger import CALLS, CallLedger, load_prices
from lcx.llm.limits import Budget, BudgetSpent, Spent
from lcx.llm.settings import Serving
from lcx.plugins import Plugins
from lcx.recipe import Step, refuse_users_own, without_strange_keys
from lcx.run import REMOVED, Run, digest, fingerprint
from lcx.settings import validate
from lcx.steps import PLAN, SHARDS, execute, run_part, take_ledgers
from lcx.storage import (
    Held,
    Journal,
    json_line,
    make_folder,
    only_writer,
    process_runs,
    read_json,
    write_json,
)
from lcx.yamls import read_yaml_file

__all__ = ["Shard", "Shards", "divide", "load_step", "numbers", "parse_shard", "run_table", "shared_steps"]

STATUS = "status.json"
BEAT = float(os.environ.get("LCX_SHARD_BEAT", "5"))
"""Seconds between two signs of life of a shard's process."""
STALE = 12
"""Signs of life that may be missing before a process counts as gone or hung."""
POLL = 0.2
ROWS_AT_ONCE = 1000
"""Rows of a journal that are joined with one sync."""
SHARED_STAGES = ("synth", "score", "eval")
MOST = 9999

NEW, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
SPENT, STALLED = "out of budget", "stale"
T = TypeVar("T")


def parse_shard(text: str) -> tuple[int | None, int]:
    """The number and count in `3/16`, or None and the count in `any/16`. Raises UsageError for another text."""
    first, slash, last = text.partition("/")
    count = int(last) if last.isdigit() else 0
    index = int(first) if first.isdigit() else None
    if not slash or not 1 <= count <= MOST or (index is None and first != "any") or (index or 0) >= count:
        raise UsageError(
            f"--shard {text}: give a number and how many there are",
            why=f"Shards of 16 are 0/16 to 15/16 (at most {MOST:,}); any/16 takes free ones until none is left.",
            hint="--shard 0/16",
        )
    return index, count


def divide(
    budget: Budget, spent: Sequence[Spent], done: Sequence[bool], elsewhere: Spent = Spent()
) -> list[Budget]:
    """What each shard may spend in all, so that together they stay within a budget.

    Each keeps what it has spent; what is left then goes to those that are not done, in equal parts, a remainder to the
    first of them. `elsewhere` is what was spent for the step outside of shards.
    """
    takers = [number for number, one in enumerate(done) if not one]

    def whole(limit: int | None, used: Callable[[Spent], int]) -> list[int | None]:
        if limit is None:
            return [None] * len(spent)
        found: list[int | None] = [used(one) for one in spent]
        left = max(0, limit - used(elsewhere) - sum(map(used, spent)))
        for place, number in enumerate(takers):
            found[number] = used(spent[number]) + left // len(takers) + (place < left % len(takers))
        return found

    costs: list[float | None] = [None] * len(spent)
    if budget.max_cost is not None:
        left = max(0.0, budget.max_cost - elsewhere.cost - sum(one.cost for one in spent))
        # A hair less than its part, as rounding would add up to more than there is
        part = left / len(takers) * (1 - 2e-9) if len(takers) > 1 else left
        costs = [one.cost + (0.0 if over else part) for one, over in zip(spent, done, strict=True)]
    calls = whole(budget.max_calls, lambda one: one.calls)
    tokens = whole(budget.max_tokens, lambda one: one.tokens)
    return [Budget(*limits) for limits in zip(calls, tokens, costs, strict=True)]


class _Ready(Exception):
    """Another process has done what this one was about to do."""


@dataclass(frozen=True)
class Shard:
    """What is known of one shard: its place, its state, and what stands in its status."""

    index: int
    count: int
    folder: Path
    status: Mapping[str, Any]

    @property
    def state(self) -> str:
        return str(self.status.get("state", NEW))

    @property
    def passes(self) -> int:
        """Passes that it has done."""
        return int(self.status.get("passes", 0))

    @cached_property
    def silent(self) -> float:
        """Seconds since its process gave a sign of life."""
        with contextlib.suppress(OSError):
            return max(0.0, time.time() - (self.folder / STATUS).stat().st_mtime)
        return 0.0

    @property
    def here(self) -> bool:
        return self.status.get("host") == platform.node()

    @property
    def gone(self) -> str:
        """Why nobody seems to be at work on a shard that is said to run; empty where all is well."""
        if self.state != RUNNING:
            return ""
        who = f"process {self.status.get('pid')} on {self.status.get('host')}"
        if self.here and not process_runs(int(self.status.get("pid", 0))):
            return f"{who} is gone"
        late = self.silent > STALE * BEAT
        return f"{who} gave no sign of life for {self.silent:,.0f} s" if late else ""

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"


class _Beat:
    """Signs of life of a shard, from a thread, while its work goes on. One that has lost its shard ends its process."""

    def __init__(self, folder: Path, status: dict[str, Any], told: Callable[[], Mapping[str, Any]]) -> None:
        self.folder, self.status, self.told = folder, status, told
        self._end, self._begun = threading.Event(), False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Beat:
        self.put()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError, RuntimeError):
                self.put()

    def put(self, **more: Any) -> None:
        with self._lock:
            if self._begun and _status(self.folder).get("mark") not in (self.status["mark"], None):
                os._exit(75)  # this process was away for long, and another one has its shard now
            self._begun = True
            self.status |= {**self.told(), **more}
            _put(self.folder / STATUS, self.status)


def _put(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small file that others look at, whole; it may be lost with the power, and is made anew then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(json_line(value))
    temporary.replace(path)


def _status(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(LcxError, OSError):
        found = read_json(folder / STATUS)
        return found if isinstance(found, dict) else {}
    return {}


class Shards:
    """The shards of one step of a run, and what is done with them."""

    def __init__(
        self, step: Step, run: Run, ctx: Context, plugins: Plugins, count: int, *, at_once: int = 0
    ) -> None:
        """`at_once` is how many may run at a time: speed limits are shared among so many. 0 is all of them."""
        self.step, self.run, self.ctx, self.plugins, self.count = step, run, replace(ctx), plugins, count
        self.at_once = min(at_once or count, count)
        self.words = ""
        """The command of one shard without its number, for hints."""
        if step.stage not in SHARED_STAGES:
            raise UsageError(
                f"step '{step.id}' cannot be shared out: its stage is {step.stage}",
                why=f"Shards are for {', '.join(SHARED_STAGES)}; several GPUs and machines train one model together.",
                hint="docs/multi-gpu.md",
            )

    # -- where things are

    @property
    def root(self) -> Path:
        return self.run.folder(self.step) / SHARDS

    def folder(self, index: int) -> Path:
        return self.root / f"{index:05d}-of-{self.count:05d}"

    def shard(self, index: int) -> Shard:
        folder = self.folder(index)
        return Shard(index, self.count, folder, _status(folder))

    @property
    def every(self) -> list[Shard]:
        return [self.shard(index) for index in range(self.count)]

    @property
    def plan(self) -> dict[str, Any]:
        """What all shards go by; empty before the step is prepared."""
        with contextlib.suppress(FileNotFoundError):
            found = read_json(self.root / PLAN)
            return found if isinstance(found, dict) else {}
        return {}

    @property
    def done(self) -> bool:
        """Whether the step is done."""
        self.run.reload()
        return self.run.state(self.run.key(self.step)) == "done"

    def command(self, index: int | str) -> str:
        words = self.words or str(self.plan.get("words", ""))
        return f"{words} --shard {index}/{self.count}" if words else f"--shard {index}/{self.count}"

    # -- before the shards

    def prepare(self) -> StepResult | None:
        """Begin the step and make what all shards need, once. Returns the result where there is nothing to share.

        Waits while another process prepares or gathers.
        """
        if self.plan and not self.ctx.force and not self.done:
            self._check_plan(self.plan)
            self.run.standing(self.step, fingerprint(self.step, self.run))
            self._patiently(self._renew)
            return None
        return self._execute(0, self._before_first)

    def _before_first(self) -> None:
        if self.ctx.force:
            with self._all_free("--force starts over"):
                pass
        elif self.plan and self.run.state(self.run.key(self.step)) != "done":
            self._check_plan(self.plan)
            raise _Ready

    def _check_plan(self, plan: Mapping[str, Any]) -> None:
        """Raise UsageError where the step was shared out among another number of shards."""
        if plan.get("shards") != self.count:
            raise UsageError(
                f"step '{self.step.id}' is shared out among {plan.get('shards')} shards, not {self.count}",
                why=f"{self.root} has what they did so far.",
                hint=f"--shards {plan.get('shards')} or --shard I/{plan.get('shards')} goes on; --force starts over "
                "and keeps paid replies.",
            )

    def _execute(self, whole: int, before: Callable[[], None]) -> StepResult | None:
        """Run the step's function as the one who gathers. Returns its result, or None where shards have to go on."""
        settled = int(self.plan.get("whole", 0))
        deal = Deal(None, self.count, whole=whole, settled=min(settled, whole))
        ctx = replace(self.ctx, deal=deal)
        try:
            return self._patiently(lambda: execute(self.step, self.run, ctx, self.plugins, before))
        except _Ready:
            return None
        except PartDone:
            self.ctx.force = False
            self._patiently(lambda: self._open_pass(deal.passed))
            return None

    def _open_pass(self, whole: int) -> None:
        """Say that so many passes are whole: shards go on with the next."""
        with self.run.lock(self.ctx.log):
            if int(self.plan.get("whole", -1)) >= whole:
                return  # another process was quicker, and shards may be at work
            total, mine = self._own(), self._spent()
            elsewhere = Spent(
                max(0, total.calls - sum(one.calls for one in mine)),
                max(0, total.prompt_tokens - sum(one.prompt_tokens for one in mine)),
                max(0, total.completion_tokens - sum(one.completion_tokens for one in mine)),
                max(0.0, total.cost - sum(one.cost for one in mine)),
            )
            plan = {
                "shards": self.count,
                "fingerprint": self.run.work_of(self.step),
                "whole": whole,
                "words": self.words,
                "elsewhere": vars(elsewhere),
            }
            self._grant(plan, mine, [False] * self.count)

    def _budget(self) -> Budget:
        settings = self.step.settings
        if not isinstance(settings, Serving):
            return Budget()
        return Budget(settings.max_calls, settings.max_tokens, settings.max_cost)

    def asked(self) -> str:
        """The settings by which shards go, as a short hash: those that say how calls are made are in it, too."""
        return digest(self.step.settings.model_dump(mode="json"))

    def _grant(self, plan: dict[str, Any], spent: Sequence[Spent], done: Sequence[bool]) -> None:
        """Write the plan with what each shard may spend."""
        grants = divide(self._budget(), spent, done, Spent(**plan.get("elsewhere", {})))
        plan |= {
            "asked": self.asked(),
            "at_once": self.at_once,
            "grants": [vars(one) for one in grants],
        }
        make_folder(self.root)
        write_json(self.root / PLAN, plan)

    def _renew(self) -> None:
        """Take new limits and addresses, and hand what shards left over to those that ran out, if none runs."""
        with self.run.lock(self.ctx.log):
            plan, shards = self.plan, self.every
            same = plan.get("asked") == self.asked() and plan["at_once"] == self.at_once
            if same and not any(one.state == SPENT for one in shards):
                return
            try:
                with self._all_free("another budget"):
                    self.run.write_settings(self.step)
                    self._grant(plan, self._spent(), [one.passes > plan["whole"] for one in shards])
            except Held as held:
                if plan.get("asked") != self.asked():
                    self.ctx.log(f"{self.step.id}: limits stay as they are while shards run ({held.why})")

    def _spent(self) -> list[Spent]:
        return [self._spent_in(self.folder(index)) for index in range(self.count)]

    def _own(self) -> Spent:
        return self._spent_in(self.run.folder(self.step))

    def _spent_in(self, folder: Path) -> Spent:
        if not (folder / CALLS).is_file():
            return Spent()
        prices = self.step.settings.prices if isinstance(self.step.settings, Serving) else {}
        with contextlib.closing(CallLedger(folder, prices=load_prices(prices))) as ledger:
            return ledger.spent

    @contextlib.contextmanager
    def _all_free(self, why: str) -> Iterator[None]:
        """Keep every shard from being worked on. Raises Held where one is."""
        _allow_files(self.count)
        with contextlib.ExitStack() as held:
            for shard in self.every:
                make_folder(shard.folder)
                try:
                    self._patiently(partial(_enter, held, shard.folder), shard.folder, 50)
                except Held:
                    raise Held(
                        f"{shard} is at work",
                        why=f"process {shard.status.get('pid')} on {shard.status.get('host')} has it",
                        hint=f"Wait for it, or end it: {why} only while no shard runs.",
                    ) from None
            yield

    def _patiently(self, act: Callable[[], T], folder: Path | None = None, times: int = 1 << 60) -> T:
        """Do what needs the lock of the run (or of a folder) alone, once whoever has it lets it go."""
        for number in range(times):
            try:
                return act()
            except Held as held:
                # A shard that has ended lets its lock go at once
                stays = folder is not None and _status(folder).get("state") == RUNNING
                if held.folder != (folder or self.run.path) or stays or number == times - 1:
                    raise
                if number == (0 if folder is None else 10):
                    self.ctx.log(f"{self.step.id}: waiting, since {held.what}")
            time.sleep(POLL)
            while folder is None and _busy(self.run.path):  # cheaper than to try: inputs are hashed first
                time.sleep(POLL)
        raise AssertionError

    # -- one shard

    def todo(self) -> list[Shard]:
        """Shards that have not done the pass that is open."""
        whole = int(self.plan.get("whole", 0))
        return [one for one in self.every if one.passes <= whole]

    def work(self, index: int) -> str:
        """Do one shard's part of the open pass; returns its state. Raises Held where another process is at it, and
        what the step's function raises; that is in the shard's status, too.
        """
        folder = make_folder(self.folder(index))
        with contextlib.ExitStack() as held:
            try:
                self._patiently(partial(_enter, held, folder), folder, 50)
            except Held:
                shard = self.shard(index)
                away = shard.state == RUNNING and not shard.here and shard.silent > STALE * BEAT
                if not away:
                    who = f"process {shard.status.get('pid')} on {shard.status.get('host')} has it"
                    raise Held(
                        f"{shard} is at work elsewhere",
                        why=shard.gone or who,
                        hint="Take another shard, or wait; one that hangs has to be ended.",
                    ) from None
                self.ctx.log(f"{shard}: {shard.gone}, so it is taken over")
                self._take_over(index)
                held.enter_context(only_writer(folder))
            return self._work(index, folder)

    def _take_over(self, index: int) -> None:
        """Copy the folder of a shard whose machine is away: what that writes, should it come back, goes elsewhere."""
        folder = self.folder(index)
        lost = folder.with_name(f"lost-{folder.name}-{secrets.token_hex(4)}")
        os.rename(folder, lost)
        fresh = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        fresh.mkdir()
        for path in lost.glob("*.jsonl"):
            shutil.copyfile(path, fresh / path.name)
        if (lost / CALLS).is_file():
            with contextlib.closing(CallLedger(fresh)) as ledger:
                ledger.take(lost / CALLS, lost.name)
        os.rename(fresh, folder)

    def _work(self, index: int, folder: Path) -> str:
        plan = self.plan
        whole = int(plan.get("whole", 0))
        shard = self.shard(index)
        if shard.passes > whole and not self._lacks(shard):
            return DONE
        deal = Deal(index, self.count, whole=whole, settled=whole, folder=folder)
        step = replace(self.step, settings=self._limited(index, plan))
        status: dict[str, Any] = {
            "shard": index,
            "of": self.count,
            "state": RUNNING,
            "passes": min(shard.passes, whole),
            "fingerprint": self.run.work_of(step),
            "host": platform.node(),
            "pid": os.getpid(),
            "mark": secrets.token_hex(8),
            "began": time.time(),
        }
        beat = _Beat(folder, status, lambda: deal.told())
        with beat:
            try:
                run_part(step, self.run, replace(self.ctx, deal=deal), self.plugins)
            except PartDone:
                pass
            except KeyboardInterrupt:
                beat.put(state=STOPPED, reason="interrupted", ended=time.time())
                raise
            except BudgetSpent as bad:
                beat.put(state=SPENT, reason=bad.what, ended=time.time())
                raise
            except BaseException as bad:
                what = bad.what if isinstance(bad, LcxError) else f"{type(bad).__name__}: {bad}"
                why = f" ({bad.why})" if isinstance(bad, LcxError) and bad.why else ""
                beat.put(state=FAILED, reason=f"{what}{why}", ended=time.time())
                raise
            beat.put(state=DONE, passes=whole + 1, ended=time.time(), kept=_kept(folder))
        return DONE

    def _limited(self, index: int, plan: Mapping[str, Any]) -> Any:
        """The settings with this shard's part of the limits."""
        settings = self.step.settings
        if not isinstance(settings, Serving):
            return settings
        at_once = int(plan["at_once"])
        own: dict[str, Any] = dict(plan["grants"][index])
        own["concurrency"] = max(1, settings.concurrency // at_once)
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (limit := getattr(settings, name)) is not None:
                own[name] = limit / at_once
        return settings.model_copy(update=own)

    # -- all of them together

    def gather(self) -> StepResult | None:
        """Put together what the shards did. Returns the step's result, or None where another pass is open now.

        Raises LcxError that names the first shard that lacks or does not belong, and the command that mends it.
        """
        plan = self.plan
        if not plan:
            raise MissingError(
                f"step '{self.step.id}' has no shards",
                hint="--shard I/N or --engine makes them; see docs/scale.md",
            )
        whole = int(plan["whole"]) + 1
        return self._execute(whole, lambda: self._before_gathering(whole))

    def _before_gathering(self, whole: int) -> None:
        if self.run.state(self.run.key(self.step)) == "done":
            return
        if int(self.plan["whole"]) >= whole:
            raise _Ready  # another process has gathered this pass meanwhile
        self.verify()
        with self._all_free("shards are joined"):
            self._take_in()

    def verify(self) -> None:
        """Raise LcxError where shards lack, are not done, or do not belong together."""
        plan = self.plan
        whole = int(plan["whole"])
        others = {
            path.name for path in self.root.glob("*-of-*") if not path.name.startswith((".", "lost-"))
        } - {self.folder(index).name for index in range(self.count)}
        if others:
            raise LcxError(
                f"{self.root} holds shards that do not belong together",
                why=f"{', '.join(sorted(others)[:3])} beside shards of {self.count}",
                hint="Remove the folders that are not of this step.",
            )
        bad = [(one, wrong) for one in self.every if (wrong := self._wrong(one, plan, whole))]
        if bad:
            shard, wrong = bad[0]
            for one, why in bad:
                if one.passes > whole:  # it is to be done again, by whoever comes next
                    _put(
                        one.folder / STATUS, {**one.status, "passes": whole, "state": STOPPED, "reason": why}
                    )
            more = (
                f", and {len(bad) - 1} more: {numbers([one.index for one, _ in bad[1:]])}" if bad[1:] else ""
            )
            raise LcxError(
                f"{shard} {wrong}{more}",
                why=f"step '{self.step.id}' is joined once all of its {self.count} shards have done their part",
                hint=(f"Remove {shard.folder}, then: " if "says that it is" in wrong else "")
                + self.command(shard.index),
            )

    def _wrong(self, shard: Shard, plan: Mapping[str, Any], whole: int) -> str:
        """What keeps a shard from being joined with the others; empty where nothing does."""
        if not shard.status:
            return "has not begun"
        if shard.status.get("of") != self.count or shard.status.get("shard") != shard.index:
            return f"says that it is {shard.status.get('shard')} of {shard.status.get('of')}"
        if shard.status.get("fingerprint") != plan["fingerprint"]:
            return "was made with other settings or inputs"
        if shard.passes <= whole:
            told = f": {shard.status['reason']}" if shard.status.get("reason") else ""
            return (
                f"is {shard.gone or shard.state}{told}" if shard.state != DONE else "has not begun this pass"
            )
        return self._lacks(shard)

    def _lacks(self, shard: Shard) -> str:
        """What of a done shard's files is not as it left them."""
        try:
            now = _kept(shard.folder)
        except LcxError as bad:
            return f"cannot be read: {bad.what}"
        for name, count in dict(shard.status.get("kept") or {}).items():
            if now.get(name, 0) != count:
                return f"has {now.get(name, 0):,} entries in {name} in place of {count:,}"
        return ""

    def _take_in(self) -> None:
        """Copy all shards' journals and ledgers into the step's own. It may be done again at any time."""
        folder, seen = self.run.folder(self.step), set[tuple[str, str]]()
        names = sorted({path.name for path in self.root.glob("*-of-*/*.jsonl")})
        for name in names:
            parts = [
                (index, Journal(path, read_only=True))
                for index in range(self.count)
                if (path := self.folder(index) / name).is_file()
            ]
            of = next((part.of for _, part in parts if part.of), "")
            with Journal(folder / name, of=of) as own:
                for index, part in parts:
                    rows = self._belonging(index, part, name, own, seen)
                    while some := list(islice(rows, ROWS_AT_ONCE)):
                        own.extend(some)
        take_ledgers(folder)

    def _belonging(
        self, index: int, part: Journal, name: str, own: Journal, seen: set[tuple[str, str]]
    ) -> Iterator[dict[str, Any]]:
        """The rows of a shard's journal that are not joined yet. Raises LcxError for one that is not the shard's."""
        deal = Deal(index, self.count)
        for row in part.entries():
            by = row.pop(DEALT_BY, None)
            unit = str(row["unit"])
            if by is not None and not deal.mine(by):
                wrong = "belongs to another shard"
            elif by is not None and (name, unit) in seen:
                wrong = "is in another shard, too"
            else:
                seen.add((name, unit))
                if unit not in own:
                    yield row
                continue
            raise LcxError(
                f"shard {index} of {self.count} holds what is not its own: '{unit}' {wrong}",
                why=f"{part.path} may have been copied from another shard or run.",
                hint=f"Remove {part.path.parent}, then: {self.command(index)}",
            )

    def compact(self) -> tuple[int, int]:
        """Remove the shards of a done step, whose work the step's own files hold; bytes before and after.

        They are renamed first, so that a kill on the way leaves all of them or none.
        """
        folder = self.run.folder(self.step)
        before = _bytes(folder)
        with self.run.lock(self.ctx.log):
            if self.run.state(self.run.key(self.step)) != "done":
                raise UsageError(
                    f"step '{self.step.id}' is not done",
                    hint=f"lcx merge {self.run.path} {self.run.key(self.step)}",
                )
            if self.root.is_dir():
                with self._all_free("they are removed"):
                    take_ledgers(folder)
                gone = self.run.path / f"{REMOVED}{secrets.token_hex(8)}"
                self.root.rename(gone)
                shutil.rmtree(gone)
        return before, _bytes(folder)


def _allow_files(count: int) -> None:
    """Allow this process to have so many more files open, as far as the system lets it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count + 256:
            most = count + 256 if hard == resource.RLIM_INFINITY else min(hard, count + 256)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _enter(held: contextlib.ExitStack, folder: Path) -> None:
    held.enter_context(only_writer(folder))


def _kept(folder: Path) -> dict[str, int]:
    """Entries in each journal of a shard, and replies in its ledger."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        found[path.name] = Journal(path, read_only=True).own
    with contextlib.closing(CallLedger(folder)) as ledger:
        calls, rules = ledger.kept()
    return {name: count for name, count in {**found, "calls": calls, "rules": rules}.items() if count}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def numbers(numbers: Sequence[int]) -> str:
    """`0-3, 7, 9-11`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


# -- steps as they lie on disk


def load_step(path: Path, key: str, ctx: Context, trust: str = "") -> tuple[Step, Run]:
    """A prepared step and its run, from the run's folder alone. Raises MissingError where there is none.

    A folder may be a stranger's: its settings count as a recipe's do, that is, no key goes to a server that they name,
    unless they are those of which `trust` is the hash, as the process that a user started says.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise MissingError(
            f"{path} is no run: it has no manifest.json", hint="lcx status RUN, with a run's folder"
        )
    run = Run(path, str(read_json(manifest).get("recipe")))
    record = run.manifest["steps"].get(key)
    if record is None:
        raise MissingError(
            f"the run {path} has no step '{key}'",
            hint=f"its steps: {', '.join(run.manifest['steps']) or 'none'}",
        )
    stage = ctx.plugins.method(record["method"]).stage(record["stage"])
    held: Any = read_yaml_file(path / key / "settings.yaml").value
    values = {name: one["value"] for name, one in held.items() if isinstance(one, Mapping)}
    origins = {name: str(one.get("from", "")) for name, one in held.items() if isinstance(one, Mapping)}
    where, step_id = str(path / key / "settings.yaml"), key.partition("/")[0]
    settings = validate(stage.settings, values, where=where)
    notes: tuple[str, ...] = ()
    if not trust or digest(settings.model_dump(mode="json")) != trust:
        schema = stage.settings
        refuse_users_own(schema, values, (), step_id, where)
        known = "api_key_env" in schema.model_fields
        values, notes = without_strange_keys(values, (), step_id, where, known=known)
        settings = validate(schema, values, where=where)
    run.stages = {
        name.partition("/")[0]: str(one.get("stage")) for name, one in run.manifest["steps"].items()
    }
    step = Step(step_id, record["stage"], record["method"], run.recipe, settings, origins, notes)
    return step, run


def shared_steps(path: Path) -> list[str]:
    """Keys of a run's steps that are, or were, shared out."""
    held = {file.parent.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/{SHARDS}/{PLAN}")}
    return sorted(place.relative_to(path).as_posix() for place in held)


# -- how far a run is


def run_table(path: Path) -> dict[str, Any]:
    """The steps of a run and their shards: state, rows, calls, cost, time left, and what went wrong."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise MissingError(
            f"{path} is no run: it has no manifest.json", hint="Give the run's folder: runs/RECIPE"
        )
    held = read_json(manifest)
    busy = _busy(path)
    steps = []
    for key, record in dict(held.get("steps") or {}).items():
        counts = record.get("counts") or {}
        state, reason = str(record.get("state", "new")), str(record.get("reason", "") or "")
        step: dict[str, Any] = {"step": key, "stage": record.get("stage"), "state": state, "reason": reason}
        step |= {"calls": counts.get("calls"), "cost": (record.get("metrics") or {}).get("cost")}
        step["rows"] = next(
            (counts[name] for name in ("contexts", "questions", "rows") if name in counts), None
        )
        file = path / key / SHARDS / PLAN
        if state == "running" and not busy and not file.is_file():
            step |= {"state": STALLED, "reason": "no process writes to this run; the same command goes on"}
        if file.is_file() and state != "done":
            step |= _shares(path / key / SHARDS, read_json(file))
        steps.append(step)
    return {"run": str(path), "recipe": held.get("recipe"), "steps": steps}


def _busy(path: Path) -> bool:
    """Whether a process holds the run's lock."""
    if not (path / ".lock").exists():
        return False
    try:
        with only_writer(path):
            return False
    except (Held, OSError, LcxError):
        return True


def _shares(root: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    count, whole = int(plan["shards"]), int(plan["whole"])
    rows = []
    for index in range(count):
        folder = root / f"{index:05d}-of-{count:05d}"
        shard = Shard(index, count, folder, _status(folder))
        told = shard.status
        state, reason = shard.state, str(told.get("reason", "") or "")
        if state == DONE and shard.passes <= whole:
            state = NEW
        if shard.gone:
            state, reason = STALLED, shard.gone
        row: dict[str, Any] = {"shard": index, "state": state, "reason": reason}
        kept = dict(told.get("kept") or {})
        row["rows"] = int(told.get("rows") or 0) or sum(n for name, n in kept.items() if name != "calls")
        row |= {name: told.get(name) for name in ("calls", "cost", "host", "pid")}
        row["left"] = _left(told) if state == RUNNING else None
        if told.get("ended") and told.get("began"):
            row["seconds"] = round(told["ended"] - told["began"], 1)
        rows.append(row)
    states = [row["state"] for row in rows]
    found: dict[str, Any] = {
        "state": "in shards",
        "pass": whole + 1,
        "shards": rows,
        **{
            name.replace(" ", "_"): states.count(name)
            for name in (DONE, RUNNING, NEW, FAILED, SPENT, STOPPED, STALLED)
        },
        "rows": sum(row["rows"] for row in rows),
        "calls": sum(row["calls"] or 0 for row in rows),
        "cost": round(sum(row["cost"] or 0 for row in rows), 6) or None,
    }
    took = [row["seconds"] for row in rows if row["state"] == DONE and "seconds" in row]
    waiting = states.count(NEW) + states.count(STOPPED)
    running = [row["left"] for row in rows if row["left"] is not None]
    if took or running:
        mean = sum(took) / len(took) if took else 0.0
        at_once = max(1, states.count(RUNNING))
        found["left"] = round(max(running, default=0.0) + mean * waiting / at_once, 1)
    failed = [row for row in rows if row["state"] in (FAILED, SPENT, STALLED)]
    found["reason"] = "; ".join(f"shard {row['shard']}: {row['reason']}" for row in failed[:3])
    return found


def _left(told: Mapping[str, Any]) -> float | None:
    """Seconds that a running shard will need, by how fast it has been, where it is known how much there is."""
    asked, expected = int(told.get("asked") or 0), int(told.get("expected") or 0)
    seconds = time.time() - float(told.get("began") or time.time())
    return round((expected - asked) * seconds / asked, 1) if 0 < asked < expected else None
