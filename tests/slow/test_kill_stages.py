"""All stages of the three recipes, killed before any of their writes: each ends as an undisturbed one does.

A process forked from this one runs a step, and is killed by SIGKILL as it is about to open, rename, remove or make
something in the run's folder for the N-th time; now and then the last line of a journal loses its end, too, as in a
power cut. The steps go on from there, and what they leave is compared: data and weights byte for byte, scores, rows of
answers, counts and metrics.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from lcx.data.documents import read_corpus
from lcx.storage import write_lines
from tests.conftest import Fault

pytestmark = pytest.mark.timeout(7200)

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
TORN = 0.2
"""Share of kills that leave a journal's last line without its end."""

RECORDS = ["synth.corpus=stdlib:records:6", "synth.examples=24", "synth.shards=2", "synth.batch=4"]
TRAIN = ["max_steps=4", "save_steps=1", "batch=8", "micro_batch=4", "save_total_limit=2"]
RECIPES: dict[str, tuple[list[str], list[str]]] = {
    "in2-tiny": (
        ["synth", "score", "train", "eval"],
        [
            *RECORDS,
            "score.judge=builtin",
            *(f"train.{word}" for word in TRAIN),
            "train.model=MODEL",
            "train.input=step:score",
            "eval.corpus=stdlib:records:2@1",
            "eval.sets=1",
            'eval.tasks=["val:database"]',
        ],
    ),
    "logo": (
        ["synth", "score", "train", "eval"],
        [
            "synth.corpus=stdlib:stale:8",
            "synth.tokenizer=words",
            "synth.segment_by=lines",
            "synth.segment_tokens=4",
            "synth.chunks=16",
            "synth.qa=written",
            "synth.joint=0",
            "synth.template=tiny",
            "synth.examples=24",
            "synth.shards=2",
            "synth.batch=4",
            "synth.llm=builtin",
            "synth.least=0",
            "synth.margin=0",
            "score.least=0",
            "score.margin=0",
            *(f"train.{word}" for word in TRAIN),
            "train.model=MODEL",
            "train.template=tiny",
            "train.tuning=full",
            "train.optimizer=adamw_torch",
            "train.real_length=256",
            "train.target_length=840",
            "train.slot_tokens=52",
            "eval.corpus=stdlib:records:8@1",
            "eval.template=tiny",
            "eval.style=bare",
            "eval.tasks=[needle]",
            "eval.sets=1",
            "eval.depths=4",
            "eval.records=[16]",
            "eval.max_new_tokens=4",
        ],
    ),
    "longreward-tiny": (
        ["synth", "score", "dpo", "eval"],
        [
            *RECORDS,
            "synth.llm=builtin",
            "synth.candidates=3",
            "score.input=ROWS",
            "score.least_scored=2",
            *(f"dpo.{word}" for word in TRAIN),
            "dpo.model=MODEL",
            "eval.corpus=stdlib:records:6@1",
            "eval.questions=8",
            "eval.samples=2",
        ],
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learnt nothing; what forked processes need is imported here."""
    import lcx.cli.app
    import lcx.evaluation.runner
    import lcx.training.preference
    import lcx.training.runner  # noqa: F401
    from lcx.data.stdlib import STALE_MARKER
    from lcx.modeling.tiny import LINE_STARTS, load_world, new_model

    world = load_world((*LINE_STARTS, STALE_MARKER))
    folder = tmp_path_factory.mktemp("base") / "model"
    new_model(0, len(world.tokenizer)).save_pretrained(folder)
    world.tokenizer.save_pretrained(folder)
    given = []
    for document in read_corpus("stdlib:records:8@3"):
        _, name, module, *_ = document.text.partition("\n")[0].split()
        answers = [f" {name} {module} ;", f" {name} {name} ;", f" {module} ;"]
        given.append({"context": document.text, "question": f"? {name} =", "predictions": answers})
    write_lines(folder.parent / "rows.jsonl", given)
    return folder


class Lives:
    """A run of a recipe, each of whose steps runs in a process of its own, with as many lives as it takes."""

    def __init__(self, recipe: str, run: Path, model: Path) -> None:
        self.recipe, self.run, self.model = recipe, run, model
        self.told = ""

    def words(self, step: str) -> list[str]:
        stage = {"dpo": "train"}.get(step, step)
        words = [
            stage,
            "--recipe",
            self.recipe,
            "--run",
            str(self.run),
            "--json",
            "--device",
            "cpu",
            "--step",
            step,
        ]
        rows = self.model.parent / "rows.jsonl"
        sets = (
            text.replace("MODEL", str(self.model)).replace("ROWS", str(rows))
            for text in RECIPES[self.recipe][1]
        )
        return words + [word for text in sets if text.startswith(f"{step}.") for word in ("--set", text)]

    def live(self, step: str, end: int = 0, tear: bool = False) -> tuple[int, int]:
        """Run a step; it is killed before its write number `end`. Its exit code (-9: killed), and writes it came to."""
        self.run.parent.mkdir(parents=True, exist_ok=True)
        log = self.run.with_name(f"{self.run.name}.log")
        read, write = os.pipe()
        child = os.fork()
        if not child:
            code = 70
            try:
                os.close(read)
                out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                self._watch(write, end, tear)
                from lcx.cli.boundary import run

                code = run(self.words(step))
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            met = len(pipe.read())
        _, status = os.waitpid(child, 0)
        self.told = log.read_text(errors="replace")
        return os.waitstatus_to_exitcode(status), met

    def _watch(self, write: int, end: int, tear: bool) -> None:
        place, met = str(self.run), 0

        def hook(event: str, given: tuple[Any, ...]) -> None:
            nonlocal met
            if event not in EVENTS or not any(place in str(one) for one in given[:2]):
                return
            if event == "open" and not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            met += 1
            os.write(write, b".")
            if met == end:
                journals = sorted(self.run.glob("**/*.jsonl")) if tear else []
                for journal in journals:
                    if journal.name in ("journal.jsonl", "judged.jsonl", "parts.jsonl"):
                        os.truncate(journal, max(0, journal.stat().st_size - 3))
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


def made(run: Path, step: str) -> dict[str, Any]:
    """What a step made, without times, places, and how many tries it took."""
    found: dict[str, Any] = {}
    folders = [path.parent for path in run.glob(f"{step}/**/.record.json")]
    for folder in folders:
        name = folder.relative_to(run).as_posix()
        record = json.loads((folder / ".record.json").read_text())["record"]
        found[name] = [record["state"], record["counts"], _lasting(record["metrics"])]
        for path in sorted(folder.rglob("*")):
            if path.name == "training_args.bin":  # it names the folder
                continue
            if path.is_file() and (
                {"data", "model"} & set(path.relative_to(folder).parts[:1])
                or path.name.startswith("predictions-")
            ):
                found[path.relative_to(run).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _lasting(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _lasting(one) for k, one in value.items() if k not in ("seconds", "calls", "answering")}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {one.get(name)} {other.get(name)}"
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


@pytest.mark.parametrize(
    "kills", [pytest.param(1, marks=pytest.mark.slow), pytest.param(17, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_killed_before_any_write_ends_as_an_undisturbed_one(
    recipe: str, kills: int, model: Path, tmp_path: Path, fault: Fault
) -> None:
    rng = random.Random(f"{recipe} {os.environ.get('LCX_KILLS', '')}")
    whole, wrong, count = Lives(recipe, tmp_path / "whole", model), list[str](), 0
    for step in RECIPES[recipe][0]:
        before = tmp_path / f"before-{step}"
        if whole.run.exists():
            shutil.copytree(whole.run, before)
        code, writes = whole.live(step)
        assert code == 0, whole.told[-3000:]
        wanted, left = made(whole.run, step), kills
        while left:
            place = tmp_path / f"{step}-{left}"
            lives = Lives(recipe, place / "run", model)
            if before.exists():
                shutil.copytree(before, lives.run)
            for _ in range(min(left, rng.choice((1, 1, 2, 3)))):
                code, _ = lives.live(step, rng.randrange(1, writes + 1), rng.random() < TORN)
                if code != -signal.SIGKILL:  # it had less to do than an undisturbed one
                    break
                left, count = left - 1, count + 1
            code, _ = lives.live(step)
            found = differences(wanted, made(lives.run, step))
            wrong += [f"{step}: exit code {code}: {lives.told[-1500:]}"] if code else found
            print(f"{step}: {count} kills so far", *wrong, sep="\n")  # shown where the time runs out, too
            shutil.rmtree(place)
    fault("kills in all stages before a write: results", count, len(wrong))
