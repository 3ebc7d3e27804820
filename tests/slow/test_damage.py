"""A damaged file of any kind is refused, named, or made again: what comes of it is never another result.

Each kind of file that a run leaves is cut, emptied, flipped in one bit, overwritten with zeros, and swapped with that
of another run; then it is used as the next command uses it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcx import recipe
from lcx.context import Context, StepResult
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.table import build_table, load_table
from lcx.data.tokens import open_span_tokenizer, open_token_store
from lcx.errors import LcxError
from lcx.evaluation.compare import NotComparable, load_rows
from lcx.evaluation.scores import SCORES, load_result, warnings_of
from lcx.llm.ledger import CALLS, CallLedger, Row
from lcx.plugins import load as load_plugins
from lcx.records import Branch, Bundle, Document
from lcx.retrieval import Vectors
from lcx.run import RECORD, Run
from lcx.storage import Journal, sealed, sha256_file, write_json, write_lines
from lcx.training.saving import CHECKPOINTS, OWNER, last_checkpoint, seal
from lcx.training.saving import FILES as FILES_OF
from tests.conftest import Fault
from tests.data.tokenizers_for_tests import byte_level
from tests.toy import TOY_RECIPE, Toy

PLACES = 6
"""Places of a flipped bit, and of a block of zeros, in each file."""
MANY = 40
"""The same in `make nightly`."""
UNITS = [f"unit {number}" for number in range(12)]


@dataclass
class Used:
    """What came of a file, and what was said of it. Entries of `value` may lack: they are made again."""

    value: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


class Kinds:
    """Every kind of file in one folder, of a seed, and how each is used."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.seed = place, seed
        self.words = [f"word{seed}x{number}" for number in range(40)]
        self.plugins = load_plugins(extra={"toy": Toy()})
        place.mkdir(parents=True, exist_ok=True)
        (place / "toy.yaml").write_text(TOY_RECIPE)
        self.steps = recipe.resolve(
            recipe.load(str(place / "toy.yaml"), self.plugins), self.plugins, project={}
        )
        self.prints = {"settings": {"examples": 5, "seed": seed}}
        self.table = build_table(self.documents(), open_span_tokenizer("words"), min_tokens=4)
        self.write()

    def documents(self) -> Iterator[Document]:
        for number in range(6):
            yield Document(f"d{number}", " ".join(self.words[number * 6 : number * 6 + 6]), {})

    def write(self) -> None:
        """A run whose synth and train step are done, and what lies beside them."""
        run, words = Run(self.place / "run", "toy"), self.words
        with run.lock():
            for step in self.steps[:2]:
                run.begin(step, self.prints)
            data = run.folder("synth") / "data"
            branches = [(Branch("question", word, "query"),) for word in words]
            bundles = [Bundle(word, of, (0, 1)) for word, of in zip(words, branches, strict=True)]
            for index in range(2):
                write_bundles(data, bundles[index * 20 : index * 20 + 20], index=index, count=2)
            self.table.save(data)
            run.finish(self.steps[0], StepResult(counts={"rows": self.seed}, files={"data": "data"}))
            model = run.folder("train") / "model"
            model.mkdir()
            (model / "model.safetensors").write_bytes(random.Random(self.seed).randbytes(4096))
            (model / "config.json").write_text(json.dumps({"layers": 2, "seed": self.seed}))
            run.finish(self.steps[1], StepResult(metrics={"loss": self.seed / 3}, files={"model": "model"}))
        with Journal(self.place / "journal.jsonl", of=f"seed {self.seed}") as journal:
            journal.extend({"unit": unit, "reply": word} for unit, word in zip(UNITS, words, strict=False))
        ledger = CallLedger(self.place)
        for word in words:
            ledger.paid(word, Row(0, ((word * 3, "stop"),), 5, 7), "openai:m")
        ledger.close()
        vectors = Vectors(self.place / "embeddings.sqlite")
        vectors.put({word: np.full(8, len(word) + self.seed, np.float32) for word in words})
        vectors.close()
        self.store()
        result = self.place / "eval" / "m"
        rows = [{"item": word, "pred": word, "score": 0.5} for word in words]
        file = write_lines(result / "predictions-toy.jsonl", rows)
        scores = {"tasks": {"toy": {"score": self.seed / 7}}, "rows": {file.name: sha256_file(file)}}
        write_json(result / SCORES, sealed(scores))
        out = self.place / "out"
        write_json(out / CHECKPOINTS / OWNER, {"training": f"training {self.seed}"})
        for number in (1, 2):
            checkpoint = out / CHECKPOINTS / f"checkpoint-{number}"
            checkpoint.mkdir()
            (checkpoint / "optimizer.pt").write_bytes(random.Random(self.seed + number).randbytes(500))
            (checkpoint / "trainer_state.json").write_text(json.dumps({"step": number, "loss": self.seed}))
            seal(checkpoint, number, f"training {self.seed}")
        for name in (CALLS, "embeddings.sqlite"):
            assert not (self.place / f"{name}-wal").exists()

    # -- how each is used

    def run(self) -> Used:
        used, run = Used(), Run(self.place / "run", "toy")
        with run.lock(used.said.append):
            for step in self.steps[:2]:
                lost = run.put_by(run.key(step))
                used.said += lost
                if run.standing(step, self.prints) == "done":
                    used.value[step.id] = vars(run.result(step))
                else:
                    used.said.append("made again")
            used.value["stands on"] = [run.digest_of("synth", "data"), run.digest_of("train", "model")]
        used.said += sorted(run.altered)
        return used

    def folder_of_records(self) -> Used:
        (self.place / "run" / "manifest.json").unlink()
        used = self.run()
        return Used(
            {k: v for k, v in used.value.items() if k != "stands on"}, used.said[1:]
        )  # of the manifest

    def bundles(self) -> Used:
        used = self.run()
        found = read_bundles(self.place / "run" / "synth" / "data")
        return Used({**used.value, "rows": [bundle.branches[0].answer for bundle in found]}, used.said)

    def segments(self) -> Used:
        used = self.run()
        table = load_table(self.place / "run" / "synth" / "data")
        used.value["texts"] = [table.fingerprint, *(table.text(number) for number in range(len(table)))]
        return used

    def journal(self) -> Used:
        with Journal(self.place / "journal.jsonl", of=f"seed {self.seed}") as journal:
            return Used({one["unit"]: one for one in journal.entries()})

    def calls(self) -> Used:
        ledger = CallLedger(self.place)
        try:
            found = {word: ledger.rows(word) for word in self.words}
            ledger.thoughts()
            return Used({word: rows for word, rows in found.items() if rows})
        finally:
            ledger.close()

    def vectors(self) -> Used:
        import sqlite3

        try:
            vectors = Vectors(self.place / "embeddings.sqlite")
            found = {word: vectors.get(word) for word in self.words}
            vectors.close()
        except sqlite3.DatabaseError as bad:  # the command line says so (lcx.cli.boundary)
            return Used(said=[str(bad)])
        return Used({word: row.tolist() for word, row in found.items() if row is not None})

    def store(self) -> Used:
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level())
        store = open_token_store(tokenizer, self.table, self.place / "cache")
        return Used({"ids": [store[number].tolist() for number in range(len(self.table))]})

    def checkpoints(self) -> Used:
        folder, notes = last_checkpoint(self.place / "out", Context())
        if folder is None:
            return Used({}, notes)
        return Used(
            {path.name: path.read_bytes() for path in folder.iterdir() if path.name != FILES_OF}, notes
        )

    def scores(self) -> Used:
        result = load_result(self.place / "eval" / "m")
        try:
            rows = load_rows(result, "toy")
        except NotComparable as bad:
            return Used({"scores": result.scores}, [str(bad)])
        return Used({"scores": result.scores, "rows": rows}, warnings_of(result))


FILES: dict[str, Callable[[Kinds], Used]] = {
    "run/manifest.json": Kinds.run,
    f"run/synth/{RECORD}": Kinds.folder_of_records,
    "run/synth/data/bundles-00000-of-00002.parquet": Kinds.bundles,
    "run/synth/data/documents-00000-of-00001.parquet": Kinds.segments,
    "run/synth/data/segments-00000-of-00001.parquet": Kinds.segments,
    "run/synth/data/table.json": Kinds.segments,
    "run/train/model/model.safetensors": Kinds.run,
    "run/train/model/config.json": Kinds.run,
    "journal.jsonl": Kinds.journal,
    CALLS: Kinds.calls,
    "embeddings.sqlite": Kinds.vectors,
    "cache/tokens/*/ids.bin": Kinds.store,
    "cache/tokens/*/offsets.npy": Kinds.store,
    "cache/tokens/*/store.json": Kinds.store,
    f"out/{CHECKPOINTS}/checkpoint-2/optimizer.pt": Kinds.checkpoints,
    f"out/{CHECKPOINTS}/checkpoint-2/trainer_state.json": Kinds.checkpoints,
    f"out/{CHECKPOINTS}/checkpoint-2/{FILES_OF}": Kinds.checkpoints,
    f"out/{CHECKPOINTS}/{OWNER}": Kinds.checkpoints,
    f"eval/m/{SCORES}": Kinds.scores,
    "eval/m/predictions-toy.jsonl": Kinds.scores,
}


def damages(data: bytes, other: bytes, places: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, damaged in every way."""
    yield "empty", b""
    for cut in (1, len(data) // 2, len(data) - 1):
        yield "cut", data[:cut]
    for _ in range(places):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield "a flipped bit", bytes(flipped)
        place = rng.randrange(len(data))
        yield "zeros", data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]
    yield "another's", other


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kinds, Kinds]:
    folder = tmp_path_factory.mktemp("kinds")
    return Kinds(folder / "mine", 1), Kinds(folder / "other", 2)


@pytest.mark.parametrize(
    "places",
    [pytest.param(PLACES, marks=pytest.mark.slow), pytest.param(MANY, marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_named_or_made_again(
    name: str, places: int, kinds: tuple[Kinds, Kinds], tmp_path: Path, fault: Fault
) -> None:
    mine, other = kinds
    use = FILES[name]
    [good] = mine.place.glob(name)
    [theirs] = other.place.glob(name)
    kept = mine.place
    tried, wrong = 0, []
    try:
        mine.place = tmp_path / "whole"
        shutil.copytree(kept, mine.place)
        whole = use(mine)
        assert not whole.said
        for how, data in damages(good.read_bytes(), theirs.read_bytes(), places, random.Random(name)):
            if data == good.read_bytes():
                continue
            tried += 1
            mine.place = tmp_path / f"{tried}"
            shutil.copytree(kept, mine.place)  # with their times
            file = mine.place / good.relative_to(kept)
            times = file.stat()
            file.write_bytes(data)
            if how == "a flipped bit":  # a bad disk leaves no other time
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            try:
                used = use(mine)
            except LcxError:
                continue
            finally:
                shutil.rmtree(mine.place)
            same = all(whole.value.get(key) == value for key, value in used.value.items())
            if not same and not used.said:
                wrong.append((how, used.value))
    finally:
        mine.place = kept
    fault("damaged files: another result, unsaid", tried, len(wrong))
