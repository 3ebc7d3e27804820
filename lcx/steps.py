"""The frame of every step: what a stage's function is given, and how steps are run, resumed, counted and recorded.

A method names a function for each of its stages (`lcx.plugins.Stage`). It takes a `StepWork` and returns `work.done()`:

    async def score(work: StepWork[MyScore]) -> StepResult:
        judge = work.llm("judge")
        rated = await work.each(work.bundles(), rate, key=lambda bundle: bundle.id)
        work.write("scores", rated.values())
        return work.done({"mean": ...})

The hooks `lcx_synth`, `lcx_score`, `lcx_train` and `lcx_eval` are asked first, so that a plugin can wrap a stage or run
one by itself; the core's own implementation comes last and looks the method up.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from lcx import gguf
from lcx.context import DEALT_BY, Context, Deal, PartDone, StepResult
from lcx.data.files import Rejects
from lcx.errors import LcxError, PluginError, UsageError
from lcx.evaluation.settings import EvalSettings
from lcx.hub import locate, tiny_folder, tiny_spec
from lcx.paths import cache_folder
from lcx.plugins import Method, Plugins, Stage, load_function, place_of_function, unloadable
from lcx.recipe import Step
from lcx.run import OWN, PAID, Run, fingerprint, identity, trial_folder
from lcx.settings import Settings
from lcx.storage import Journal, make_folder, read_json, shard_path, write_lines, write_text
from lcx.training.settings import PreferenceSettings, TrainSettings

if TYPE_CHECKING:
    from lcx.data.bundles import BundleReader
    from lcx.data.rows import Example
    from lcx.data.table import SegmentTable
    from lcx.llm.client import LLMClient, Service
    from lcx.records import Bundle

__all__ = [
    "EVAL",
    "PREFERENCE",
    "TRAIN",
    "Method",
    "SetAside",
    "Stage",
    "StepResult",
    "StepWork",
    "ensure_model",
    "execute",
    "forecast",
    "train_tiny",
]

TRAIN = Stage(TrainSettings, "lcx.training.train:train_step", "lcx.training.train:forecast")
"""Supervised fine-tuning on bundles: the core's own train stage."""
PREFERENCE = Stage(PreferenceSettings, "lcx.training.train:preference_step", "lcx.training.train:forecast")
"""Preference optimisation by a registered loss; `replace(PREFERENCE, settings=MyTrain)` gives it other defaults."""
EVAL = Stage(EvalSettings, "lcx.evaluation.step:eval_step", "lcx.evaluation.planning:eval_forecast")
"""The core's own eval stage."""

JOURNAL = "journal.jsonl"
SHARDS, PLAN = "shards", "plan.json"
"""Folder of a step that several processes share, and the file in it that says among how many (`lcx.shards`)."""
OPEN = 256
"""Items under way at a time in `StepWork.each`, unless it is told otherwise."""

S = TypeVar("S", bound=Settings)
T = TypeVar("T")


class SetAside(Exception):
    """An item that cannot be used: the step goes on without it. `reason` is a category that is counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Shard:
    """One of the files that a step's bundles are cut into. `places` are the numbers of the examples in it."""

    folder: Path
    index: int
    count: int
    places: range

    def write(self, bundles: Iterable[Bundle], name: str = "bundles") -> None:
        """Write this shard of `name`, whole or not at all. What other names hold is written before `bundles`."""
        from lcx.data.bundles import write_bundles

        write_bundles(self.folder, bundles, name=name, index=self.index, count=self.count)


class _Found(Mapping[str, dict[str, Any]]):
    """What was made of items, in their order. A row that is in the journal is read when it is asked for: of a million
    answers only the names are in memory.
    """

    def __init__(self, journal: Journal | None) -> None:
        self.rows: dict[str, dict[str, Any] | None] = {}
        self._journal = journal

    def __getitem__(self, unit: str) -> dict[str, Any]:
        row = self.rows[unit]
        if row is None:
            assert self._journal is not None
            return self._journal[unit]
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class StepWork(Generic[S]):
    """What a stage's function works with: settings, folder, models, journal, and what is counted and noted.

    `counts`, `metrics`, `files`, `notes` and `extra` may be filled on the way; `done` adds what calls cost and what
    was set aside, and makes the result of it all. The journal and the models are opened when they are first used,
    and closed when the function has returned.
    """

    def __init__(self, step: Step, run: Run, ctx: Context) -> None:
        self.step, self.run, self.ctx = step, run, ctx
        self.counts: Counter[str] = Counter()
        self.metrics: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.notes: list[str] = []
        self.extra: dict[str, Any] = {}
        self.rejects = Rejects()
        self._open = contextlib.ExitStack()
        self._service: Service | None = None
        self._journals: list[Journal] = []
        ctx.deal.told = self._told

    def _told(self) -> dict[str, Any]:
        """How far this is, for whoever looks at it from another thread."""
        calls = {} if self._service is None else self._service.ledger.glance()
        return {"rows": sum(one.own for one in self._journals), **calls}

    @property
    def settings(self) -> S:
        """The step's checked settings."""
        return cast(S, self.step.settings)

    @property
    def plugins(self) -> Plugins:
        """The registries of losses, tasks, metrics, models and retrievers."""
        return self.ctx.plugins

    @property
    def folder(self) -> Path:
        """The folder of the step's outputs."""
        return self.run.folder(self.step)

    @property
    def deal(self) -> Deal:
        """Which of the step's items this process does, where several share it (`lcx.shards`)."""
        return self.ctx.deal

    @property
    def place(self) -> Path:
        """The folder of this process's own journals: a shard's, or the step's."""
        return self.deal.folder or self.folder

    @property
    def data(self) -> Path:
        """The folder `data` in it, which the next step takes as its input."""
        return make_folder(self.folder / "data")

    @cached_property
    def resumed(self) -> bool:
        """True if an earlier process left work here, apart from replies that were paid for."""
        known = {*OWN, *PAID}
        return self.folder.is_dir() and any(path.name not in known for path in self.folder.iterdir())

    # -- models

    @property
    def service(self) -> Service:
        """The step's models: clients, ledger, budget. Raises TypeError where the settings are no `Calling`."""
        if self._service is None:
            from lcx.llm.client import Service
            from lcx.llm.settings import Serving

            if not isinstance(self.settings, Serving):
                raise TypeError(
                    f"{type(self.settings).__name__} asks a model, and does not inherit from Calling"
                )
            self._service = self._open.enter_context(Service(self.folder, self.settings, self.ctx))
        return self._service

    def spec(self, role: str) -> tuple[str, dict[str, Any]]:
        """Spec and options of a role's model: the settings `ROLE` and `ROLE_options`, `local:step:ID` by its folder."""
        options = getattr(self.settings, f"{role}_options", None)
        return self.run.llm(str(getattr(self.settings, role))), dict(options or {})

    def llm(self, role: str = "llm", spec: tuple[str, Mapping[str, Any]] | None = None) -> LLMClient:
        """The client of a role's model, or of another spec with options; it is opened by the first call.

        A step that begins says at once what is missing: a model, a key, a price. Raises typed errors.
        """
        name, options = self.spec(role) if spec is None else spec
        if not self.resumed:
            self.service.check(name, options)
        return self.service.client(name, options)

    @property
    def spent(self) -> dict[str, int]:
        """What was asked of models so far, as counts; empty where none was."""
        found = {} if self._service is None else self._service.counts()
        return {name: number for name, number in found.items() if isinstance(number, int) and number}

    @property
    def said(self) -> list[str]:
        """What servers said of calls that failed, a sentence for each reason; empty where none did."""
        return [] if self._service is None else self._service.said()

    # -- data

    def bundles(self, name: str = "bundles") -> BundleReader:
        """The bundles that `input` names. Raises MissingError, and UsageError where it is no folder of bundles."""
        from lcx.data.bundles import read_bundles

        return read_bundles(self.source, name)

    @cached_property
    def source(self) -> Path:
        """The folder of bundles that `input` names. Raises MissingError, and UsageError where it is another thing."""
        place = self.run.bundles(self.step)
        if not place.is_dir():
            raise UsageError(
                f"{place} is no folder of bundles",
                hint=f"--input FOLDER, as `lcx synth` leaves one; of rows: lcx import {place} --to FOLDER",
            )
        return place

    def table(self, *, min_tokens: int, mode: str, questions: bool = False) -> SegmentTable:
        """The corpus cut into segments, in `data`; `questions` keeps those of the corpus' rows (`read_corpus`)."""
        from lcx.data.table import step_table

        settings: Any = self.settings
        began = time.monotonic()
        table = step_table(
            self.folder,
            settings.corpus,
            documents=settings.documents,
            tokenizer=settings.tokenizer,
            min_tokens=min_tokens,
            mode=mode,
            decontaminate=settings.decontaminate,
            counts=self.counts,
            log=self.ctx.log,
            questions=questions,
            fields=getattr(settings, "fields", None),
            encoding=getattr(settings, "encoding", "utf-8"),
            pulse=self.ctx.pulse,
        )
        self.ctx.reading.append(time.monotonic() - began)
        return table

    def rows(self, source: str | Path) -> Iterator[Example]:
        """The rows of a file, a folder or `hf:NAME`, whatever their fields are called; broken ones are set aside."""
        from lcx.data.rows import Tally

        tally = Tally(self.rejects, getattr(self.settings, "fields", None))
        for _, example in tally.examples_in(source):
            yield example
        self.notes += tally.notes()
        tally.check(source)

    def shards(self, examples: int, *, fresh: bool = False) -> Iterator[Shard]:
        """The shards of `data` that are not there yet, each a contiguous block of examples; `fresh`: all of them."""
        self.deal.writes()
        count = min(getattr(self.settings, "shards", 1), max(1, examples))
        if fresh:
            for path in self.data.glob("bundles-*-of-*"):
                path.unlink()  # an earlier finish of this step may have known less
        for index in range(count):
            if not shard_path(self.data, "bundles", index, count).is_file():
                places = range(index * examples // count, (index + 1) * examples // count)
                yield Shard(self.data, index, count, places)

    def write(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows to `NAME.jsonl` in the step's folder, and name the file in the result."""
        self.deal.writes()
        write_lines(self.folder / f"{name}.jsonl", rows)
        self.files[name] = f"{name}.jsonl"

    def write_text(self, file: str, text: str) -> None:
        """Write a file for people, such as `preview.md`, and name it in the result by its stem."""
        self.deal.writes()
        write_text(self.folder / file, text)
        self.files[Path(file).stem] = file

    # -- items

    @cached_property
    def journal(self) -> Journal:
        """The step's journal of finished items, on disk: `unit in journal`, `journal[unit]`, `journal.append(row)`."""
        return self.open_journal(JOURNAL, of=self.run.work_of(self.step))

    def open_journal(self, name: str, *, of: str = "") -> Journal:
        """A journal in the step's folder, closed when the stage's function has returned.

        A shard writes one of its own, and what was gathered in the step's counts as known.
        """
        known = Journal(self.folder / name, read_only=True, of=of) if self.deal.folder is not None else None
        made = self._open.enter_context(Journal(self.place / name, of=of, known=known))
        self._journals.append(made)
        if asked := made.counted:
            self.service.ledger.note_done(asked)
        return made

    async def each(
        self,
        items: Iterable[T],
        one: Callable[[T], Awaitable[Mapping[str, Any]]],
        *,
        key: Callable[[T], Hashable],
        weight: Callable[[T], int] = lambda item: 1,
        most: int = OPEN,
        keep: Callable[[Mapping[str, Any]], bool] | None = lambda row: True,
        label: str = "",
        share: Callable[[T], Hashable] | None = None,
        journal: Journal | None = None,
    ) -> Mapping[str, dict[str, Any]]:
        """What `one` makes of every item, by the item's key, in the order of the items; read from the journal anew.

        A finished item is in the journal at once, and a resumed step does not do it again, unless `keep` refuses its
        row; with no `keep` at all there is no journal. Items are begun in order while the weights of those under way
        stay within `most`. One that raises SetAside is counted among the rejects; any other error ends the others and
        is raised.

        Where several processes share the step, each does the items that a hash of `share` (by default the key) deals
        to it and ends (PartDone): give items that may ask the same the same share. `journal` is another one than the
        step's.
        """
        import asyncio  # a dry run needs none of it

        from lcx.llm.ledger import counting_rules, rules_counted

        deal = self.deal
        kept = self.journal if journal is None and keep else journal
        by: dict[str, str] = {}
        found = _Found(kept)
        running: dict[asyncio.Task[None], int] = {}
        shown = self.ctx.progress(label, len(items)) if label and isinstance(items, Sequence) else None

        async def work(unit: str, item: T) -> None:
            try:
                with counting_rules():
                    row = {"unit": unit, **await one(item)}
                    asked = rules_counted()
            except SetAside as bad:
                self.rejects.add(self.step.id, bad.reason, where=unit, detail=bad.detail)
                del found.rows[unit]
                return
            # Who gathers keeps what came to nothing, too: the shards' next pass is built on it
            settles = deal.index is None and not deal.alone
            if kept is not None and keep and (keep(row) or settles):
                kept.append(row | asked | ({DEALT_BY: by[unit]} if unit in by else {}))
            else:
                found.rows[unit] = row
            if shown:
                shown.advance()

        async def settle() -> None:
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                del running[task]
                task.result()

        with shown or contextlib.nullcontext():
            try:
                for item in items:
                    unit = str(key(item))
                    if kept is not None and unit in kept:
                        found.rows[unit] = None
                        if shown:
                            shown.skip(1)
                        continue
                    if deal.open:
                        part = str((share or key)(item))
                        if not deal.mine(part):
                            continue
                        by[unit] = part
                    elif not deal.due() and kept is not None:
                        continue  # it came to nothing when all shards had done theirs
                    found.rows[unit] = None  # holds its place in the order
                    heavy = weight(item)
                    while running and sum(running.values()) + heavy > most:
                        await settle()
                    running[asyncio.create_task(work(unit, item))] = heavy
                while running:
                    await settle()
            except BaseException:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                raise
        deal.gathered()
        return found

    # -- the end

    def done(
        self,
        metrics: Mapping[str, Any] | None = None,
        *,
        notes: Iterable[str] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> StepResult:
        """The step's result: what was counted and noted, what calls cost, and what was set aside and why."""
        self.deal.writes()
        if self._service is not None:
            from lcx.llm.ledger import THOUGHTS, paid

            others, cost = paid(self._service.counts())
            self.counts.update(others)
            self.metrics |= cost
            self.notes += self.said
            if alone := self.counts[THOUGHTS[1]]:
                self.notes.append(
                    f"{alone:,} replies are only a thought that never ends: allow more tokens for replies, or turn "
                    "thinking off"
                )
        if len(self.rejects):
            # What a corpus lost is in rejected.jsonl already, written when its table was made.
            name = (
                "rejected-items.jsonl"
                if (self.folder / "data" / "table.json").is_file()
                else "rejected.jsonl"
            )
            self.rejects.write(self.folder / name)
            self.files["rejected"] = name
            self.counts.update({f"set aside: {why}": number for why, number in self.rejects.counts.items()})
        if (self.folder / "data").is_dir():
            self.files = {"data": "data", **self.files}
        return StepResult(
            counts=dict(sorted(self.counts.items())),
            metrics={**(metrics or {}), **self.metrics},
            files=self.files,
            notes=[*self.notes, *notes],
            extra={**self.extra, **(extra or {})},
        )

    def close(self) -> None:
        """Close the journal and the models."""
        self._open.close()


def run_stage(step: Step, run: Run, ctx: Context) -> StepResult | None:
    """Run the function that the step's method names for its stage; None where it names none, and a hook must do it."""
    stage = ctx.plugins.method(step.method).stage(step.stage)
    if not stage.run:
        return None
    function = _function(stage.run, step, ctx)
    work: StepWork[Any] = StepWork(step, run, ctx)
    with contextlib.closing(work):
        result = function(work)
        if inspect.iscoroutine(result):
            result = work.service.run(result)
        if not isinstance(result, StepResult):
            raise _wrong_result(stage.run, step, ctx, result, "work.done(metrics)")
        return result


def _function(target: str, step: Step, ctx: Context) -> Callable[..., Any]:
    """A stage's function. Raises PluginError where a plugin names one that cannot be imported."""
    try:
        return cast(Callable[..., Any], load_function(target))
    except Exception as failure:  # a stranger's module may raise anything
        owner = ctx.plugins.methods.owner(step.method)
        if ctx.plugins.bundled(owner):
            raise
        what = f"the stage '{step.stage}' of the method '{step.method}'"
        raise unloadable(what, owner, target, failure) from failure


def _wrong_result(target: str, step: Step, ctx: Context, result: Any, right: str) -> PluginError:
    owner = ctx.plugins.methods.owner(step.method)
    given = "nothing" if result is None else f"a {type(result).__name__}"
    return PluginError(
        f"the method '{step.method}' of '{owner}': {target} returns {given} for the stage '{step.stage}'",
        why=place_of_function(load_function(target)),
        hint=f"It ends with: return {right}",
    )


def forecast_stage(step: Step, run: Run, ctx: Context) -> dict[str, Any] | None:
    """What the step will cost, by the function that its method names; None where it names none."""
    stage = ctx.plugins.method(step.method).stage(step.stage)
    if not stage.forecast:
        return None
    found = _function(stage.forecast, step, ctx)(StepWork(step, run, ctx))
    if not isinstance(found, Mapping):
        raise _wrong_result(stage.forecast, step, ctx, found, '{"calls": 64}')
    return dict(found)


def ensure_model(spec: str, ctx: Context) -> str:
    """The folder of the tiny model or GGUF file that a spec names, trained or converted now where the cache lacks it;
    any other spec as it is. Raises MissingError for a named model that was not fetched.
    """
    if gguf.named(spec) is not None or gguf.is_gguf(spec):
        return locate(spec, say=ctx.log)
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


def run_part(step: Step, run: Run, ctx: Context, plugins: Plugins) -> None:
    """Do a shard's part of a step that is prepared. Raises PartDone when that is done."""
    hook: Callable[..., StepResult | None] = getattr(plugins.manager.hook, f"lcx_{step.stage}")
    ctx = replace(ctx, plugins=plugins, ready_model=lambda spec: ensure_model(spec, ctx))
    _call(hook, step, run, ctx)


def _refuse_shared(step: Step, run: Run) -> None:
    """Raise UsageError for a step that shards have begun: this process alone would ask again what they have."""
    plan = run.folder(step) / SHARDS / PLAN
    if run.state(run.key(step)) != "done" and plan.is_file():
        count = read_json(plan).get("shards")
        raise UsageError(
            f"step '{step.id}' is shared out among {count} shards, which have begun",
            why=f"Their work lies in {plan.parent}.",
            hint=f"lcx merge {run.path} {run.key(step)} says what lacks and puts them together; the same command with "
            "--force starts over, and keeps paid replies.",
        )


def take_ledgers(folder: Path) -> None:
    """Copy the replies that shards paid for into the step's own ledger."""
    from lcx.llm.ledger import CALLS

    _take(folder, sorted((folder / SHARDS).glob(f"*/{CALLS}")))


def _take(folder: Path, files: Sequence[Path]) -> None:
    """Copy the replies of other ledgers, each known by its folder's name, into a step's own."""
    from lcx.llm.ledger import CallLedger

    if files:
        ledger = CallLedger(folder)
        with contextlib.closing(ledger):
            for file in files:
                ledger.take(file, file.parent.name)


def _take_trial(step: Step, run: Run, ctx: Context) -> None:
    """Copy what a trial of the step paid for (`lcx synth --limit`) into the step's own ledger."""
    folder = trial_folder(run.path) / run.key(step)
    if not folder.is_dir():
        return
    import sqlite3

    from lcx.llm.ledger import CALLS

    try:
        _take(run.folder(step), [folder / CALLS] if (folder / CALLS).is_file() else [])
    except (sqlite3.Error, LcxError) as bad:
        ctx.log(
            f"{step.id}: the trial's replies in {folder / CALLS} cannot be read and are asked for again: {bad}"
        )


def execute(
    step: Step, run: Run, ctx: Context, plugins: Plugins, before: Callable[[], None] | None = None
) -> StepResult:
    """Run one step, or hand back what it reported if it is already done with the same settings and inputs.

    `before` is called once nobody else writes to the run, and before this process does. Raises PartDone where `ctx`
    says that shards do the rest.
    """
    hook: Callable[..., StepResult | None] = getattr(plugins.manager.hook, f"lcx_{step.stage}")
    ctx = replace(ctx, plugins=plugins, ready_model=lambda spec: ensure_model(spec, ctx))
    if ctx.rank != 0:  # rank 0 alone writes the run; the others only work, once it has begun the step
        ctx.wait()
        run.reload()
        return run.result(step) if run.state(run.key(step)) == "done" else _call(hook, step, run, ctx)
    prints = fingerprint(step, run)
    ctx = replace(ctx, identity=identity(step, run, prints))
    for name in sorted(run.altered):
        ctx.log(f"warning: {step.id} stands on {run.path / name}, which was changed since its step wrote it")
    with run.lock(ctx.log):
        if before is not None:
            before()
        elif not ctx.force:
            _refuse_shared(step, run)
        lost = run.put_by(run.key(step)) if not ctx.force else {}
        for name, why in lost.items():
            ctx.log(f"{step.id}: {name} is {why}; the step makes it again")
        how = run.begin(step, prints, force=ctx.force)
        ctx.wait()
        if how == "done":
            ctx.log(f"{step.id}: already done in {run.folder(step)} (--force starts over)")
            return replace(run.result(step), reused=True)
        if (run.folder(step) / SHARDS).is_dir() and not (run.folder(step) / SHARDS / PLAN).exists():
            take_ledgers(run.folder(step))  # what was left when the step was started over
            shutil.rmtree(run.folder(step) / SHARDS)
        _take_trial(step, run, ctx)
        if how == "resume" and ctx.deal.alone:
            ctx.log(f"{step.id}: resuming in {run.folder(step)}")
        try:
            result = _call(hook, step, run, ctx)
        except KeyboardInterrupt:
            run.stop(step, "interrupted")
            raise
        except PartDone:
            run.stop(step, "in shards")
            raise
        except BaseException as failure:
            with contextlib.suppress(OSError, LcxError):  # a full disk must not hide the first error
                run.stop(step, "failed", f"{type(failure).__name__}: {failure}")
            raise
        run.finish(step, result)
        for name in result.spent:
            shutil.rmtree(run.folder(step) / name, ignore_errors=True)
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
    ctx = replace(ctx, plugins=plugins)
    return plugins.manager.hook.lcx_forecast(step=step, run=run, ctx=ctx) or {}
