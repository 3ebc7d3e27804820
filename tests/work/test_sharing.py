"""A step that several processes share ends with the bytes of one that did it alone, and pays for nothing twice."""

from __future__ import annotations

import errno
import json
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcx import shards as shards_module
from lcx.context import Context, Deal, PartDone
from lcx.errors import LcxError, UsageError
from lcx.llm.ledger import CallLedger, Row
from lcx.llm.limits import Budget, BudgetSpent, Spent
from lcx.run import Run
from lcx.shards import Shards, divide, load_step, numbers, parse_shard, run_table
from lcx.storage import Held, Journal, only_writer
from tests.conftest import Fault, Ran
from tests.llm.stub_server import Stub
from tests.work.sharing import PLUGINS, answer, outputs, shared, steps, whole


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub(answer) as server:
        yield server


def made(step: Any, folder: Path, count: int = 3, **context: Any) -> Shards:
    return Shards(step, Run(folder, step.recipe), Context(**context), PLUGINS, count)


@pytest.mark.parametrize(
    ("recipe", "passes"), [("in2", 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in
                                         (("logo", 3), ("longreward", 2)))]
)  # fmt: skip
@pytest.mark.parametrize("asked", ["server", pytest.param("rules", marks=pytest.mark.slow)])
def test_shards_give_the_bytes_of_one_process(
    tmp_path: Path, stub: Stub, recipe: str, passes: int, asked: str
) -> None:
    calls: dict[str, int] = {}
    for step in steps(recipe, tmp_path, stub.url if asked == "server" else ""):
        for kind, do in (("whole", whole), ("shared", shared)):
            before, twice = stub.calls, +stub.good
            found = do(step, Run(tmp_path / kind, recipe))
            calls[kind] = stub.calls - before
            again = stub.good - twice
            assert not again or max(again.values()) == 1
            if isinstance(found, tuple):
                assert found[1] == (passes if step.stage == "synth" else 1)
        one, several = (outputs(tmp_path / kind / step.id) for kind in ("whole", "shared"))
        assert len(one) >= 5
        assert several == one
        # A shard whose writer does better than others' asks a few too many, and no other kind of call is spent
        assert calls["whole"] <= calls["shared"] <= calls["whole"] + (4 if step.stage == "synth" else 0)


@pytest.mark.slow
def test_a_shard_is_killed_at_any_call_and_nothing_is_asked_again(tmp_path: Path, stub: Stub) -> None:
    """Each process here ends by an error at its next call; the shard goes on from its ledger."""
    step = steps("in2", tmp_path, stub.url)[0]
    shards = made(step, tmp_path / "run")
    assert shards.prepare() is None
    for shard in shards.todo():
        for most in range(1, 40):
            tight = made(step, tmp_path / "run")
            plan = tight.plan
            plan["grants"][shard.index]["max_calls"] = 3 * most
            plan_file = tight.root / "plan.json"
            plan_file.write_text(json.dumps(plan))
            try:
                assert tight.work(shard.index) == "done"
                break
            except BudgetSpent:
                assert shards.shard(shard.index).state == "out of budget"
    assert shards.gather() is not None
    assert max(stub.good.values()) == 1


@pytest.fixture(scope="module")
def by_rules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A step of three shards by rules, all of them done, and not yet joined."""
    folder = tmp_path_factory.mktemp("rules")
    step = steps("in2", folder)[0]
    shards = made(step, folder / "run")
    assert shards.prepare() is None
    for shard in shards.todo():
        assert shards.work(shard.index) == "done"
    return folder / "run", step


@pytest.fixture
def ready(by_rules: tuple[Path, Any], tmp_path: Path) -> Shards:
    """A copy of it."""
    folder, step = by_rules
    shutil.copytree(folder, tmp_path / "run")
    return made(step, tmp_path / "run")


def test_what_does_not_belong_together_is_not_joined(ready: Shards) -> None:
    ready.words = "lcx synth"
    one, kept = ready.folder(1), ready.folder(1).with_name("aside")
    damages: dict[str, Callable[[], object]] = {
        "has not begun": lambda: None,
        "was made with other settings": lambda: _edit(one, fingerprint="other"),
        "says that it is 0 of 3": lambda: _edit(one, shard=0),
        "says that it is 1 of 4": lambda: _edit(one, of=4),
        "entries in rules in place of": lambda: (one / "calls.sqlite").unlink(),
        "is failed: it broke": lambda: _edit(one, state="failed", passes=0, reason="it broke"),
        "do not belong together": lambda: shutil.copytree(one, ready.root / "00000-of-00004"),
    }
    os.rename(one, kept)
    for said, damage in damages.items():
        if said != "has not begun":
            shutil.copytree(kept, one)
        damage()
        with pytest.raises(LcxError, match=said) as bad:
            ready.gather()
        if "belong" not in said:
            assert "shard 1 of 3" in bad.value.what
            assert bad.value.hint.endswith("lcx synth --shard 1/3")
            assert (ready.shard(1).passes, ready.work(1)) == (0, "done")  # that mends it
        for path in (one, ready.root / "00000-of-00004"):
            shutil.rmtree(path, ignore_errors=True)
    os.rename(kept, one)
    assert ready.gather() is not None


def _edit(folder: Path, **values: Any) -> None:
    file = folder / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_row_in_another_shards_journal_is_refused(tmp_path: Path) -> None:
    step = steps("in2", tmp_path)
    whole(step[0], Run(tmp_path / "run", "in2"))
    shards = made(step[1], tmp_path / "run")
    shards.prepare()
    for shard in shards.todo():
        shards.work(shard.index)
    first, second = (next(Journal(shards.folder(n) / "journal.jsonl").entries()) for n in (0, 1))
    for row, said in ((second, "belongs to another shard"),):
        with Journal(shards.folder(0) / "journal.jsonl") as journal:
            journal.append(row)
        kept = json.loads((shards.folder(0) / "status.json").read_text())["kept"]
        _edit(shards.folder(0), kept={**kept, "journal.jsonl": kept["journal.jsonl"] + 1})
        with pytest.raises(LcxError, match=said) as bad:
            shards.gather()
        assert "shard 0 of 3" in bad.value.what
    assert first["unit"] != second["unit"]


def test_one_process_alone_and_another_number_of_shards_are_refused(ready: Shards) -> None:
    with pytest.raises(UsageError, match="shared out among 3 shards"):
        whole(ready.step, Run(ready.run.path, "in2"))
    with pytest.raises(UsageError, match="among 3 shards, not 4"):
        made(ready.step, ready.run.path, 4).prepare()
    # Starting over keeps what was asked, by what was asked: here that is all
    assert made(ready.step, ready.run.path, 4, force=True).prepare() is not None


@pytest.mark.slow
def test_paid_replies_of_shards_outlive_a_start_over(tmp_path: Path, stub: Stub) -> None:
    step = steps("in2", tmp_path, stub.url)[0]
    shards = made(step, tmp_path / "run")
    shards.prepare()
    shards.work(0)
    asked = stub.calls
    assert asked
    again = made(step, tmp_path / "run", 2, force=True)
    again.prepare()
    for shard in again.todo():
        again.work(shard.index)
    again.gather()
    assert max(stub.good.values()) == 1


def test_a_file_system_without_locks(ready: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    _edit(ready.folder(1), passes=0, state="stopped")
    assert ready.work(1) == "done"
    (ready.folder(0) / ".writer").write_text(json.dumps({"host": platform.node(), "pid": os.getpid()}))
    _edit(ready.folder(0), passes=0, state="running")
    with pytest.raises(Held):
        ready.work(0)
    with pytest.raises(LcxError, match="shard 0 of 3 is running"):
        ready.gather()
    (ready.folder(0) / ".writer").write_text(
        json.dumps({"host": platform.node(), "pid": 2**22 + 1})
    )  # killed
    assert ready.work(0) == "done"
    assert ready.gather() is not None


def test_a_shard_that_another_process_has_is_left_to_it(ready: Shards) -> None:
    _edit(ready.folder(0), state="running", passes=0)
    with only_writer(ready.folder(0)):
        with pytest.raises(Held, match="shard 0 of 3 is at work elsewhere"):
            ready.work(0)
        with pytest.raises(LcxError, match="shard 0 of 3 is"):
            ready.gather()


@pytest.mark.slow
def test_a_shard_of_a_machine_that_is_away_is_taken_over_and_not_mixed_when_it_comes_back(
    tmp_path: Path, stub: Stub, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = steps("in2", tmp_path, stub.url)[0]
    one = whole(step, Run(tmp_path / "whole", "in2"))
    paid = stub.calls
    shards = made(step, tmp_path / "run")
    shards.prepare()
    shards.work(0)
    folder = shards.folder(0)
    kept = json.loads((folder / "status.json").read_text())
    _edit(folder, state="running", passes=0, host="another", kept={})
    with only_writer(folder):  # what a file system keeps for a machine that is away
        with pytest.raises(Held):  # it may be at work
            shards.work(0)
        old = time.time() - 3600
        os.utime(folder / "status.json", (old, old))
        asked = stub.calls
        assert shards.work(0) == "done"
        assert stub.calls == asked
    [lost] = shards.root.glob("lost-*")
    back = CallLedger(lost)  # it comes back, and a reply arrives that it had asked for
    back.paid("key", Row(0, (("late", "stop"),)), "openai:some")
    back.close()
    for shard in shards.todo():
        shards.work(shard.index)
    assert shards.gather() is not None
    assert json.loads((shards.folder(0) / "status.json").read_text())["kept"] == kept["kept"]
    ledger = CallLedger(tmp_path / "run" / "synth")
    changed = outputs(tmp_path / "run" / "synth") != outputs(tmp_path / "whole" / "synth")
    fault("machines away for an hour, then back: replies", 1, int(changed) + (not ledger.rows("key")))
    ledger.close()
    assert one.counts["questions"]
    assert paid <= stub.calls


def test_the_status_tells_of_shards_that_are_gone(ready: Shards, cli: Callable[..., Ran]) -> None:
    _edit(ready.folder(0), state="running", pid=2**22 + 1, passes=0)
    _edit(ready.folder(1), state="failed", passes=0, reason="the server is down")
    [step] = run_table(ready.run.path)["steps"]
    assert [one["state"] for one in step["shards"]] == ["stale", "failed", "done"]
    ran = cli("status", str(ready.run.path))
    assert ran.code == 0
    assert "1/3 shards done, 1 failed, 1 stale" in ran.out
    assert "is gone" in ran.out
    assert "the server is down" in ran.out
    told = cli("status", str(ready.run.path), "--json").json
    assert told["steps"][0]["done"] == 1


@pytest.mark.parametrize("recipe", ["in2", "logo", "longreward"])
def test_a_steps_settings_are_read_from_its_folder_and_a_strangers_get_no_key(
    tmp_path: Path, recipe: str
) -> None:
    for step in steps(recipe, tmp_path, "http://127.0.0.1:9/v1", api_key_file="key.txt"):
        run = Run(tmp_path / "run", recipe)
        run.manifest["steps"][step.id] = {"stage": step.stage, "method": step.method, "state": "in shards"}
        run._save()
        (run.path / step.id).mkdir()
        run.write_settings(step)
        asked = made(step, run.path).asked()
        again, _ = load_step(run.path, step.id, Context(), trust=asked)
        assert again.settings == step.settings
        for trust in ("", "another"):
            strange, _ = load_step(run.path, step.id, Context(), trust=trust)
            settings: Any = strange.settings
            assert (settings.api_key_file, settings.api_key_env) == (None, "")
            assert strange.notes


def test_merge_and_compact(ready: Shards, cli: Callable[..., Ran]) -> None:
    ran = cli("merge", str(ready.run.path), "--compact", "--json")
    assert ran.code == 0
    [report] = ran.json["steps"]
    assert report["state"] == "done"
    assert report["bytes"]["shards"] == 0
    assert report["compacted"]["after"] < report["compacted"]["before"]
    assert not ready.root.exists()
    assert cli("merge", str(ready.run.path)).code == 4


@pytest.mark.parametrize("text", ["3", "3/", "/3", "16/16", "x/3", "-1/4", "0/0", "1/99999999"])
def test_shards_are_told_by_number_and_count(text: str) -> None:
    assert parse_shard("15/16") == (15, 16)
    assert parse_shard("any/2") == (None, 2)
    assert numbers([0, 1, 2, 7, 9, 10]) == "0-2, 7, 9-10"
    with pytest.raises(UsageError):
        parse_shard(text)


@pytest.mark.parametrize(
    "words", [["--shards", "4"], ["--shard", "0/2", "--engine", "local"], ["--engine", "local", "--address", "x"],
              ["--shard", "0/2", "--force"], ["--engine", "local", "--shards", "0"]]
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(
    words: list[str], tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    ran = cli("synth", "--recipe", "in2-tiny", "--run", str(tmp_path / "run"), *words)
    assert ran.code == 2
    assert "hint:" in ran.err


# -- how items are dealt out


def test_every_item_is_one_shards() -> None:
    deals = [Deal(index, 7, whole=0) for index in range(7)]
    owners = [[deal.mine(key) for deal in deals] for key in range(2000)]
    assert all(sum(mine) == 1 for mine in owners)
    assert min(map(sum, zip(*owners, strict=True))) > 200
    assert [deal.index for deal in deals if deal.mine("the same everywhere")] == [1]


def test_who_does_what_in_which_pass() -> None:
    shard = Deal(1, 2, whole=1)
    assert not shard.due()  # of a pass that is whole: it failed
    shard.gathered()
    assert shard.open
    assert shard.due()
    with pytest.raises(PartDone):
        shard.gathered()
    gatherer = Deal(None, 2, whole=1)
    assert gatherer.due()
    gatherer.gathered()
    with pytest.raises(PartDone):
        gatherer.due()
    gatherer.writes()
    with pytest.raises(PartDone):
        shard.writes()


# -- budgets, in simulated time


def simulate(seed: int) -> tuple[Budget, Spent, int]:
    """Eight shards on up to eight workers: calls of random cost and length, kills, new rounds and larger budgets.

    The budget at the end, what was spent in all, and the rounds. Each shard decides by its own books, as it does.
    """
    rng = random.Random(seed)
    price = {"m": (1.0, 2.0)}
    budget = Budget(rng.randrange(0, 120), None, rng.uniform(0, 0.02) if rng.random() < 0.8 else None)
    books = [CallLedger(None, prices=price) for _ in range(8)]
    left = [rng.randrange(0, 40) for _ in range(8)]
    rounds = 0
    while rounds < 12:
        rounds += 1
        grants = divide(budget, [book.spent for book in books], [not one for one in left])
        assert sum(one.max_calls or 0 for one in grants) <= max(
            budget.max_calls or 0, sum(book.spent.calls for book in books)
        )
        for book, grant in zip(books, grants, strict=True):
            book.budget, book.in_flight = grant, Spent()
        flying: list[tuple[float, int, Spent, tuple[int, int]]] = []
        now, open_ones, begun = 0.0, [n for n in range(8) if left[n]], 0
        while True:
            room = rng.randrange(1, 9) - len(flying)
            for number in rng.sample(open_ones, min(max(0, room), len(open_ones))):
                tokens = rng.randrange(1, 200), rng.randrange(1, 200)
                expects = books[number].expects("openai:m", *tokens)
                if left[number] and not books[number].refuses(expects):
                    books[number].in_flight.add(expects)
                    left[number] -= 1
                    begun += 1
                    spent = rng.randrange(tokens[0] + 1), rng.randrange(tokens[1] + 1)
                    flying.append((now + rng.random(), number, expects, spent))
            if not flying:
                break
            flying.sort(key=lambda one: one[0])
            now, number, expects, spent = flying.pop(0)
            books[number].in_flight.add(expects, -1)
            if rng.random() < 0.05:  # killed in flight: it may have been charged, and is asked again
                books[number].lost("k", "no reply", "openai:m", tokens=spent, calls=1)
                left[number] += 1
            else:
                books[number].paid("k", Row(0, (), *spent), "openai:m")
            total = sum(book.spent.calls for book in books), sum(book.spent.cost for book in books)
            assert total[0] <= (budget.max_calls or 0)
            assert budget.max_cost is None or total[1] <= budget.max_cost * (1 + 1e-9)
        if not any(left) or not begun:
            break
    whole = Spent()
    for book in books:
        whole.add(book.spent)
    return budget, whole, rounds


@pytest.mark.parametrize("schedules", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_schedules_of_eight_shards_keep_to_their_budget(fault: Fault, schedules: int) -> None:
    reached = 0
    over = 0
    for seed in range(schedules):
        budget, spent, _ = simulate(seed)
        over += spent.calls > (budget.max_calls or 0)
        over += budget.max_cost is not None and spent.cost > budget.max_cost * (1 + 1e-9)
        reached += spent.calls == budget.max_calls
    fault("schedules of 8 shards: budgets passed", schedules, over)
    assert reached > 0.3 * schedules  # and what shards leave over is used


def test_what_is_left_is_handed_out_to_the_last_call() -> None:
    grants = divide(Budget(10), [Spent(3), Spent(1), Spent(0)], [True, False, False], Spent(1))
    assert [one.max_calls for one in grants] == [3, 4, 2]
    assert divide(Budget(2), [Spent(2), Spent(1)], [False, False])[0].max_calls == 2
    assert divide(Budget(), [Spent(2)], [False])[0] == Budget()
    assert shards_module.STALE * shards_module.BEAT >= 30
