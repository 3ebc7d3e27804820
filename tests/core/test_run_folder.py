"""The run folder: fresh, resumed, done, refused, forced, locked, damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcx import recipe
from lcx.context import Context, StepResult
from lcx.errors import LcxError, MissingError, UsageError
from lcx.plugins import Plugins
from lcx.progress import Display, Progress
from lcx.recipe import Step
from lcx.run import OWN, PAID, RECORD, REMOVED, Run, _set_aside, differences, fingerprint, slug
from lcx.settings import validate
from lcx.storage import sealed, write_json
from lcx.yamls import read_yaml, read_yaml_file, yaml_text

PRINT = {"stage": "synth", "settings": {"examples": 5}, "inputs": {}}


@pytest.fixture
def steps(toy_plugins: Plugins, toy_recipe: Path) -> list[Step]:
    return recipe.resolve(recipe.load(str(toy_recipe), toy_plugins), toy_plugins, project={})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", "toy")


def again(run: Run) -> Run:
    return Run(run.path, run.recipe)


def test_looking_at_a_run_writes_nothing(run: Run) -> None:
    assert run.state("synth") == "new"
    assert not run.path.exists()


def test_fresh_then_resume_then_done(run: Run, steps: list[Step]) -> None:
    assert run.begin(steps[0], PRINT) == "fresh"
    assert again(run).state("synth") == "running"
    assert again(run).begin(steps[0], PRINT) == "resume"
    run.finish(steps[0], StepResult(counts={"rows": 1}))
    assert again(run).begin(steps[0], PRINT) == "done"
    record = json.loads((run.path / "manifest.json").read_text())["steps"]["synth"]
    assert record["versions"]["lcx"]
    assert record["seed"] == 0


def test_settings_are_kept_with_their_origins(run: Run, steps: list[Step]) -> None:
    import yaml

    run.begin(steps[0], PRINT)
    kept = yaml.safe_load((run.folder(steps[0]) / "settings.yaml").read_text())
    assert kept["examples"] == {"value": 5, "from": "recipe toy.yaml"}
    assert kept["rate"] == {"value": 0.5, "from": "method toy"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    title=st.sampled_from(
        ["1e9", "1.", "010", "no", "~", "", "<<", ".inf", "-0", "a: b", "# a", "'", "\x85", "\u2028"]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    words=st.lists(st.from_regex(r"[-+.0-9eE~]{0,6}", fullmatch=True), max_size=3),
    rate=st.floats(0, 1e300),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_every_value_comes_back_from_settings_as_it_was(
    run: Run, steps: list[Step], title: str, words: list[str], rate: float, seed: int
) -> None:
    given = {
        "title": title,
        "words": words,
        "rate": rate,
        "seed": seed,
        "ratios": {word: rate for word in words},
    }
    made = validate(type(steps[0].settings), given, where="step")
    step = dataclasses.replace(steps[0], settings=made)
    run.folder(step).mkdir(parents=True, exist_ok=True)
    run.write_settings(step)
    kept = read_yaml_file(run.folder(step) / "settings.yaml").value
    assert {name: one["value"] for name, one in kept.items()} == step.values()
    for name, value in step.values().items():  # as next: repeats it, and `recipes show` writes it
        assert read_yaml(yaml_text(value, line=True), name).value == value


def test_another_fingerprint_is_refused_with_the_difference(run: Run, steps: list[Step]) -> None:
    run.begin(steps[0], PRINT)
    (run.folder("synth") / "old").touch()
    other = {**PRINT, "settings": {"examples": 6}}
    assert again(run).standing(steps[0], other) == "fresh", "a file that a failed start left empty is no work"
    (run.folder("synth") / "old").write_text("work")
    with pytest.raises(UsageError) as bad:
        again(run).begin(steps[0], other)
    assert bad.value.why == "settings.examples: was 5, now 6"
    assert "--force" in bad.value.hint
    assert (run.folder("synth") / "old").exists()
    assert again(run).begin(steps[0], other, force=True) == "fresh"
    assert not (run.folder("synth") / "old").exists()


def test_starting_over_keeps_the_replies_that_were_paid_for(run: Run, steps: list[Step]) -> None:
    run.begin(steps[0], PRINT)
    folder = run.folder("synth")
    for name in (*PAID, "replies.sqlite", "journal.jsonl"):
        (folder / name).write_text(name)
    (folder / "data").mkdir()
    assert again(run).begin(steps[0], PRINT, force=True) == "fresh"
    assert {path.name for path in folder.iterdir()} == {*PAID, *OWN}
    assert not list(run.path.glob(f"{REMOVED}*"))
    assert (folder / PAID[0]).read_text() == PAID[0]
    other = {**PRINT, "settings": {"examples": 6}}  # what was paid for is not in the way of other settings
    assert again(run).begin(steps[0], other) == "fresh"
    assert (folder / PAID[0]).exists()


def test_the_journal_of_calls_has_the_name_that_is_kept() -> None:
    from lcx.llm.ledger import CALLS

    assert {CALLS, f"{CALLS}-wal", f"{CALLS}-shm"} <= set(PAID)


def test_the_journal_of_embeddings_has_the_name_that_is_kept(tmp_path: Path) -> None:
    from lcx_longreward.judge import retriever_options
    from lcx_longreward.settings import LongRewardScore

    settings = LongRewardScore(retriever="openai:model")
    cache = Path(retriever_options(settings, tmp_path, Context())["cache"]).name
    assert {cache, f"{cache}-wal", f"{cache}-shm"} <= set(PAID)


def test_results_come_back_from_disk(run: Run, steps: list[Step]) -> None:
    result = StepResult(
        counts={"rows": 3}, metrics={"score": 0.5, "by": {"a": [1, None]}}, files={"f": "x"}, notes=["n"]
    )
    run.begin(steps[0], PRINT)
    run.finish(steps[0], result)
    assert again(run).result(steps[0]) == result


@pytest.mark.parametrize("state", ["interrupted", "failed"])
def test_a_stopped_step_resumes(run: Run, steps: list[Step], state: str) -> None:
    run.begin(steps[0], PRINT)
    run.stop(steps[0], state, "why")
    assert again(run).state("synth") == state
    assert again(run).begin(steps[0], PRINT) == "resume"


def test_a_done_step_is_not_stopped(run: Run, steps: list[Step]) -> None:
    run.begin(steps[0], PRINT)
    run.finish(steps[0], StepResult())
    run.stop(steps[0], "failed")
    assert again(run).state("synth") == "done"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"recipe": "toy", "steps": {"synth": {"files": [1]}}}',
        '{"recipe": "toy"}',
        '{"recipe": "toy", "steps": []}',
        "\x00\xff",
    ],
)
def test_a_damaged_manifest_is_said_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LcxError, match=r"manifest\.json is not"):
        Run(tmp_path, "toy")


def test_folders_of_others_are_refused(run: Run, steps: list[Step], tmp_path: Path) -> None:
    run.begin(steps[0], PRINT)
    with pytest.raises(UsageError, match="is a run of the recipe 'toy', not of 'in2'"):
        Run(run.path, "in2")
    with pytest.raises(UsageError, match="is not empty and holds no manifest"):
        Run(tmp_path, "toy")


def test_references_name_the_step_that_is_missing(run: Run, steps: list[Step]) -> None:
    with pytest.raises(MissingError) as bad:
        run.resolve("step:synth")
    assert bad.value.why == "step 'synth' is not started"
    assert bad.value.hint == f"lcx synth --recipe toy --run {run.path}"
    run.begin(steps[0], PRINT)
    (run.folder("synth") / "data").mkdir()
    run.finish(steps[0], StepResult())
    assert run.resolve("step:synth") == run.path / "synth" / "data"
    assert run.resolve("/some/where") == Path("/some/where")


def test_starting_over_spares_the_folders_of_other_steps(run: Run, steps: list[Step]) -> None:
    """Runs of earlier versions may have an eval's folder around those of others."""
    run.begin(steps[2], PRINT)  # eval/train
    (run.folder(steps[2]) / "scores.json").touch()
    run.manifest["steps"]["eval"] = {"state": "failed", "stage": "eval", "fingerprint": {"old": 1}}
    own = run.folder("eval")
    (own / "parts" / "deep").mkdir(parents=True)
    (own / "parts" / "deep" / PAID[0]).touch()
    (own / "parts" / "old.json").touch()
    (own / "gone").mkdir()
    assert run._holds_work("eval")
    _set_aside(own, run._others("eval"), run.path)
    left = {str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()}
    assert left == {"train/scores.json", *(f"train/{name}" for name in OWN), f"parts/deep/{PAID[0]}"}
    assert not (own / "gone").exists()
    (own / "parts" / "deep" / PAID[0]).unlink()
    (own / "parts" / "deep").rmdir()
    (own / "parts").rmdir()
    assert not run._holds_work("eval")


def test_eval_is_kept_by_model(run: Run, steps: list[Step]) -> None:
    assert run.key(steps[2]) == "eval/train"
    assert slug("org/Name-7B") == "Name-7B"
    assert slug("../..") not in ("..", ".")


def test_files_that_no_record_names_are_not_removed_unsaid(run: Run, steps: list[Step]) -> None:
    step, folder = steps[0], run.path / "synth"
    (folder / "checkpoint-15").mkdir(parents=True)
    (folder / "checkpoint-15" / "model.safetensors").write_text("half the training")
    (run.path / "manifest.json").write_text('{"recipe": "toy", "steps": {}}')
    with pytest.raises(UsageError, match="no record's of this run: checkpoint-15") as bad:
        again(run).begin(step, PRINT)
    assert "--force" in bad.value.hint
    assert (folder / "checkpoint-15" / "model.safetensors").is_file()
    assert again(run).begin(step, PRINT, force=True) == "fresh"
    assert not (folder / "checkpoint-15").exists()


@pytest.mark.parametrize(
    "text", ["", '{"recipe": "toy", "ste', "[]", '{"recipe": "toy", "steps": {"synth": 1}}', None]
)
def test_a_lost_manifest_is_made_of_the_steps_own_records(
    run: Run, steps: list[Step], text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    done = StepResult(counts={"rows": 3})
    run.begin(steps[0], PRINT)
    run.finish(steps[0], done)
    run.begin(steps[2], {"a": 1})  # eval/train, under way
    (run.folder(steps[2]) / "journal.jsonl").write_text('{"unit": 1}\n')
    file = run.path / "manifest.json"
    file.unlink() if text is None else file.write_text(text)
    found, said = again(run), list[str]()
    assert found.recovered == ("synth", "eval/train")
    with found.lock(said.append):
        assert found.begin(steps[0], PRINT) == "done"
        assert found.result(steps[0]) == done
        assert found.begin(steps[2], {"a": 1}) == "resume"
    assert "synth, eval/train" in said[0]
    assert again(run).recovered == ()


def test_a_step_folder_whose_record_was_lost_is_taken_up(run: Run, steps: list[Step]) -> None:
    run.begin(steps[0], PRINT)
    (run.folder("synth") / "journal.jsonl").write_text('{"unit": 1}\n')
    (run.path / "manifest.json").write_text('{"recipe": "toy", "steps": {}}')
    with pytest.raises(UsageError, match="other settings"):
        again(run).begin(steps[0], {**PRINT, "settings": {"examples": 9}})
    found = again(run)
    assert found.begin(steps[0], PRINT) == "resume"
    assert (run.folder("synth") / "journal.jsonl").exists()
    found.finish(steps[0], StepResult(files={"rows": "journal.jsonl"}))
    (run.path / "manifest.json").write_text('{"recipe": "toy", "steps": {}}')
    assert again(run).begin(steps[0], PRINT) == "done"
    (run.path / "manifest.json").write_text('{"recipe": "toy", "steps": {}}')
    (run.folder("synth") / "journal.jsonl").unlink()
    assert again(run).begin(steps[0], PRINT) == "resume"


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", range(12))
def test_a_kill_while_a_step_starts_over_mixes_nothing(
    run: Run, steps: list[Step], moment: int, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """Whatever was done when the kill came, what lies in the folder is of the settings that its record says."""
    step, other = steps[0], {**PRINT, "settings": {"examples": 6}}
    run.begin(step, PRINT)
    folder = run.folder(step)
    for name in ("journal.jsonl", "a.json", "z.json"):
        (folder / name).write_text("of 5 examples")
    (folder / PAID[0]).write_text("paid")
    run.finish(step, StepResult(files={"a": "a.json"}))
    left = [moment]

    def dying(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **options)

        return call

    for name in ("rename", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    monkeypatch.setattr(os, "replace", dying(os.replace))
    with contextlib.suppress(Killed):
        again(run).begin(step, other, force=True)
    monkeypatch.undo()
    found = again(run)
    olds = [path for path in folder.iterdir() if path.name not in (*OWN, *PAID)]
    made = found.manifest["steps"]["synth"]
    assert not olds or (made["fingerprint"] == PRINT and (made["state"] != "done" or len(olds) == 3))
    fault("kills of a step that starts over: paid replies", 1, (folder / PAID[0]).read_text() != "paid")
    with contextlib.suppress(UsageError):
        found.begin(step, other)
        assert {path.name for path in folder.iterdir()} == {*OWN, PAID[0]}
    assert again(run).begin(step, other, force=True) == "fresh"
    assert {path.name for path in folder.iterdir()} == {*OWN, PAID[0]}
    assert not list(run.path.glob(f"{REMOVED}*"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_told_from_another_writer(
    run: Run, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def none(handle: Any, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    said: list[str] = []
    with run.lock(said.append):
        assert "without locks" in said[0]
        with pytest.raises(LcxError, match="another lcx process is writing") as bad, again(run).lock():
            pass
        assert str(os.getpid()) in bad.value.why
    assert not (run.path / ".writer").exists()
    file = run.path / ".writer"
    file.write_text(
        json.dumps({"host": platform.node(), "pid": 2**22 + 1})
    )  # no process has it: it was killed
    with run.lock():
        pass
    file.write_text(json.dumps({"host": "another machine", "pid": 1}))
    with pytest.raises(LcxError, match="another lcx process is writing") as bad, run.lock():
        pass
    assert "another machine" in bad.value.why
    assert str(file) in bad.value.hint


def test_a_second_process_is_kept_out(run: Run) -> None:
    code = f"""
from pathlib import Path
from lcx.errors import LcxError
from lcx.run import Run
try:
    with Run(Path({str(run.path)!r}), "toy").lock():
        print("in")
except LcxError as bad:
    print(bad.what)
"""

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    with run.lock():
        assert "another lcx process is writing" in other()
    assert other() == "in\n"


def test_what_another_process_finished_is_seen_under_the_lock(run: Run, steps: list[Step]) -> None:
    late = again(run)
    with run.lock():
        run.begin(steps[0], PRINT)
        run.finish(steps[0], StepResult())
    with late.lock():
        assert late.begin(steps[0], PRINT) == "done"


def test_differences_name_leaves() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "e": None}) == [
        "a.c: was 2, now 3",
        "d: was [1], is not there now",
    ]
    assert differences({}, {"f": {"x": 1}}) == ["f: was not there, now {'x': 1}"]


def test_a_setting_that_came_since_counts_at_its_default(run: Run, steps: list[Step]) -> None:
    step = steps[0]
    now = fingerprint(step, run)
    names = ("ratios", "words", "title", "inner")
    assert all(name in now["settings"] for name in names)
    before = {**now, "settings": {name: v for name, v in now["settings"].items() if name not in names}}
    run.begin(step, before)
    (run.folder(step) / "data").mkdir()
    (run.folder(step) / "data" / "rows.txt").write_text("rows")
    assert again(run).standing(step, now) == "resume"
    run.finish(step, StepResult(files={"data": "data"}))
    digest = run.digest_of("synth")
    assert again(run).begin(step, now) == "done"
    assert again(run).digest_of("synth") == digest  # later steps stand on the same data
    other = {**now, "settings": {**now["settings"], "title": "mine"}}
    with pytest.raises(UsageError, match="other settings") as refused:
        again(run).begin(step, other)
    assert "settings.title: was not there, now 'mine'" in refused.value.why
    assert "settings.words" not in refused.value.why
    gone = {**now, "settings": {name: v for name, v in now["settings"].items() if name != "examples"}}
    with pytest.raises(UsageError) as refused:
        again(run).begin(step, gone)
    assert "settings.examples: was 5, is not there now" in refused.value.why


def test_a_start_that_left_nothing_is_not_in_the_way_of_other_settings(run: Run, steps: list[Step]) -> None:
    step = steps[0]
    assert run.begin(step, {"settings": {"llm": "local:/nope"}}) == "fresh"
    run.stop(step, "failed", "no model")
    assert run.begin(step, {"settings": {"llm": "builtin"}}) == "fresh"
    (run.folder(step) / "journal.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="other settings"):
        run.begin(step, {"settings": {"llm": "other"}})


def test_a_done_step_whose_files_are_gone_runs_again(run: Run, steps: list[Step]) -> None:
    step = steps[0]
    run.begin(step, {"a": 1})
    made = run.folder(step) / "data"
    made.mkdir()
    run.finish(step, StepResult(files={"data": "data"}))
    assert run.begin(step, {"a": 1}) == "done"
    made.rmdir()
    assert run.begin(step, {"a": 1}) == "resume"


def test_a_lost_or_cut_file_of_a_done_step_is_made_again(run: Run, steps: list[Step]) -> None:
    step, key = steps[0], run.key(steps[0])
    run.begin(step, {"a": 1})
    shards = [run.folder(step) / f"data/bundles-0000{n}-of-00002.parquet" for n in (0, 1)]
    for shard in shards:
        shard.parent.mkdir(exist_ok=True)
        shard.write_text("rows")
    run.finish(step, StepResult(files={"data": "data"}))
    first = run.digest_of(key, "data")
    assert again(run).begin(step, {"a": 1}) == "done"
    assert first == run.digest_of(key)
    shards[0].unlink()
    shards[1].write_text("r")
    found = run.put_by(key)
    assert found == {f"data/{shards[0].name}": "gone", f"data/{shards[1].name}": "of 1 bytes in place of 4"}
    assert [path.name for path in shards[0].parent.iterdir()] == [f"unusable-{shards[1].name}"]
    assert run.digest_of(key, "data") != first
    assert run.begin(step, {"a": 1}) == "resume"


def test_a_model_that_was_changed_after_its_step_is_another_input(run: Run, steps: list[Step]) -> None:
    step, key = steps[1], run.key(steps[1])
    run.begin(step, {"a": 1})
    weights = run.folder(step) / "model/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    run.finish(step, StepResult(files={"model": "model"}))
    first = run.digest_of(key, "model")
    os.utime(weights, ns=(1, 1))  # copied
    assert again(run).digest_of(key, "model") == first
    weights.write_bytes(b"two")
    assert run.digest_of(key, "model") != first
    assert run.begin(step, {"a": 1}) == "done"  # the step itself made what it made


def test_a_flipped_bit_in_what_a_step_made_is_noticed(run: Run, steps: list[Step]) -> None:
    step, key = steps[1], run.key(steps[1])
    run.begin(step, {"a": 1})
    config, found = run.folder(step) / "model/config.json", run.folder(step) / "scores.json"
    config.parent.mkdir()
    config.write_text('{"layers": 2}')
    write_json(found, sealed({"score": 0.5}))
    run.finish(step, StepResult(files={"model": "model", "scores": "scores.json"}, metrics={"score": 0.5}))
    first, times = run.digest_of(key, "model"), config.stat()
    config.write_text('{"layers": 3}')
    os.utime(config, ns=(times.st_atime_ns, times.st_mtime_ns))  # a bad disk leaves the time
    assert run.digest_of(key, "model") != first
    assert run.altered == {"train/model/config.json"}
    manifest = run.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"score": 0.5', '"score": 0.7'))
    assert again(run).result(step).metrics == {"score": 0.5}, "the record in the step's folder is whole"
    record = (run.folder(step) / RECORD).read_text()
    (run.folder(step) / RECORD).unlink()
    with pytest.raises(LcxError, match="is not as lcx wrote it"):
        again(run)
    (run.folder(step) / RECORD).write_text(record)
    found.write_text(found.read_text().replace("0.5", "0.9"))
    found_again = again(run)
    assert found_again.put_by(key) == {"scores.json": "damaged"}
    assert found_again.begin(step, {"a": 1}) == "resume"


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_changes_nothing(
    run: Run, steps: list[Step], days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, jumped = steps[0], time.time() + days * 86_400
    run.begin(step, PRINT)
    (run.folder(step) / "journal.jsonl").write_text('{"unit": 1}\n')
    monkeypatch.setattr(time, "time", lambda: jumped)
    monkeypatch.setattr("lcx.run._now", lambda: datetime.datetime.fromtimestamp(jumped).isoformat())
    for path in (run.folder(step) / "journal.jsonl", run.path / "manifest.json", run.path / ".lock"):
        path.touch()
        os.utime(path, (jumped, jumped))
    with again(run).lock(), pytest.raises(LcxError, match="another lcx process"), again(run).lock():
        pass
    found = again(run)
    assert found.begin(step, PRINT) == "resume"
    with Progress(Display(Context().console), "work", 10) as shown:
        shown.advance(5)
        monkeypatch.setattr(time, "time", lambda: -jumped)
        assert 0 <= shown.seconds < 60
        assert "-" not in shown.text()
    found.finish(step, StepResult(files={"rows": "journal.jsonl"}))
    assert again(run).begin(step, PRINT) == "done"


def test_starting_over_changes_what_later_steps_stand_on(run: Run, steps: list[Step]) -> None:
    step = steps[0]
    run.begin(step, {"a": 1})
    run.finish(step, StepResult())
    first = run.digest_of(run.key(step))
    assert run.begin(step, {"a": 1}) == "done"
    assert run.digest_of(run.key(step)) == first
    run.begin(step, {"a": 1}, force=True)
    assert run.digest_of(run.key(step)) != first


def test_half_written_files_of_a_killed_process_are_removed(run: Run, steps: list[Step]) -> None:
    from lcx.storage import TEMPORARY

    step = steps[0]
    run.begin(step, {"a": 1})
    torn = run.folder(step) / f".rows.parquet.123{TEMPORARY}"
    torn.write_text("half")
    run.begin(step, {"a": 1})
    assert not torn.exists()
