"""Odd and damaged inputs for everything that reads what strangers wrote: `make fuzz`.

Each target is called in this process with inputs that hypothesis draws: structures with odd values in them, and files
whose bytes were flipped, cut and repeated. What comes back is a result, an LcxError, or something set aside with its
reason; what was acknowledged is there again; a text four times as long takes no more than eight times as long.
`LCX_FUZZ` is the number of draws for each target; a draw makes several inputs. The table at the end counts inputs.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lcx import recipe
from lcx.context import StepResult
from lcx.data import rows
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.documents import read_corpus
from lcx.data.files import Rejects
from lcx.data.templates import TEMPLATES, chat_script, chat_turn, load_template
from lcx.errors import LcxError
from lcx.evaluation import saved
from lcx.evaluation.scores import as_written
from lcx.evaluation.show.page import write_report
from lcx.llm.prompts import fill, load_prompt
from lcx.plugins import Plugins
from lcx.plugins import load as load_plugins
from lcx.records import Branch, Bundle
from lcx.run import RECORD, Run
from lcx.settings import Settings, validate
from lcx.storage import SEAL, Journal
from lcx.yamls import read_yaml, yaml_text
from tests.core.test_growth import HEADS, MOST, QUICK, READERS, SHAPES, took
from tests.evaluation.golden.golden_views import predictions, write_run
from tests.evaluation.tasks import score_rows, task
from tests.toy import TOY_RECIPE, Toy

DRAWS = int(os.environ.get("LCX_FUZZ", "55"))
NIGHTLY = 25
"""How many times as many draws `make nightly` makes."""

# ---- odd values

# fmt: off
PIECES = [*SHAPES, *HEADS, "\ud800", "\0", "\x1b[2J", "\u202e", "\ufeff", "𝔘", "{", "}", ":", ",", "&a ", "*a", "!!x "]
DEEP = ["[" * 3000, '{"a":' * 3000]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**70), 10**400, 0.0, -0.0, 0.5, 1e308, math.nan, math.inf,
    "", " ", "\n", "a", "0", "1e9", "nan", "null", "\ud800", "\0", "../x", "/dev/zero", "a" * 300, "中文", "e\u0301",
    "{context}", "{question}", "step:train", "hf:x", "http://[", "http://h:99999999", "~nobody/x", "file:///", "1:30",
    [], {}, [[]], [{}], [None], {"": None}, {"a": {"b": []}}, [1, "a"], ["a", "b"], [math.nan], {"role": "user"},
    [{"role": "user", "content": None}, {"role": "assistant", "content": [{"type": "image"}]}],
    {"title": ["a"], "sentences": [["b"], 3]},
]
NAMES = [
    "", "a", "id", "text", "context", "question", "answer", "answers", "messages", "role", "content", "\ud800", "0",
]
# fmt: on
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=30)
VALUES = st.recursive(
    st.sampled_from(ODD) | st.text(max_size=8) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)
SEEDS = st.integers(0, 2**32)


def changed(value: Any, rng: random.Random, odd: Any) -> Any:
    """A copy of a JSON value with a few of its parts replaced, renamed, lost, doubled or wrapped."""
    held = {"": json.loads(json.dumps(value))}
    for _ in range(rng.choice((1, 1, 2, 3))):
        node: Any = held
        key: Any = ""
        while isinstance(node[key], dict | list) and node[key] and (node is held or rng.random() < 0.8):
            node = node[key]
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        how = rng.random()
        if how < 0.6:
            node[key] = deepcopy(odd if rng.random() < 0.4 else rng.choice(ODD))
        elif how < 0.75:
            node[key] = [node[key]] if rng.random() < 0.5 else {rng.choice(NAMES): node[key]}
        elif node is held:
            held[""] = deepcopy(odd)
        elif how < 0.85 and isinstance(node, dict):
            node[rng.choice(NAMES)] = deepcopy(node[key])
        else:
            del node[key]
    return held[""]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with bits flipped, parts lost, doubled, overwritten or cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4))):
        place, how = rng.randrange(len(found) + 1), rng.random()
        end = min(len(found), place + rng.choice((1, 2, 8, 64)))
        if how < 0.4 and place < len(found):
            found[place] ^= 1 << rng.randrange(8)
        elif how < 0.55:
            del found[place:end]
        elif how < 0.7:
            found[place:place] = found[place:end]
        elif how < 0.8:
            found[place:end] = bytes(end - place)
        elif how < 0.9:
            found[place:place] = rng.choice((*PIECES, *DEEP)).encode("utf-8", "surrogatepass")
        else:
            del found[place:]
    return bytes(found)


# ---- what is counted


@dataclass
class Tries:
    """How many inputs were tried, and how many of them were refused; parts that were set aside."""

    folder: Path
    inputs: int = 0
    refused: int = 0
    aside: int = 0

    def read(self, function: Callable[..., Any], *values: Any) -> Any:
        """What the function says of an input; None where it refuses it."""
        self.inputs += 1
        try:
            return function(*values)
        except LcxError:
            self.refused += 1
            return None

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def linear(self, function: Callable[[str], Any], text: str) -> None:
        """Read a text, and four times the text in a time that is no more than linear."""

        def refusing(given: str) -> None:
            with suppress(LcxError):
                function(given)

        self.read(function, text)
        self.inputs += 1
        if took(refusing, text * 4, 1) > QUICK:
            assert any(
                took(refusing, text * 4, 2) <= MOST * max(QUICK / 4, took(refusing, text, 5))
                for _ in range(4)
            )


@cache
def plugins() -> Plugins:
    return load_plugins()


@cache
def schemas() -> list[type[Settings]]:
    """The settings of every stage of every bundled method."""
    known = plugins().methods
    methods = [known.get(name) for name in known.names()]
    found = {method.stage(stage).settings for method in methods for stage in method.stages}
    return sorted(found, key=lambda one: one.__name__)


@cache
def recipes() -> list[Any]:
    return [
        read_yaml(file.read_text(), file.name).value
        for [(file, _)] in recipe.recipe_files(plugins()).values()
    ]


# ---- targets


def strict(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def yaml_texts(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    tries.linear(lambda given: read_yaml(given, "text"), text)
    with suppress(yaml.YAMLError, ValueError):
        for style in ('"', None):
            written = yaml.safe_dump(value, allow_unicode=rng.random() < 0.5, default_style=style)
            read = tries.read(read_yaml, written, "value")
            # Without quotes a text is what it looks like: `1e9` is a number, which PyYAML does not know
            assert read is None or style is None or read.value == value
        for line in (False, True):
            read = tries.read(read_yaml, yaml_text(value, line=line), "ours")
            assert read is None or read.value == value
            tries.read(read_yaml, damaged(written.encode(), rng).decode("utf-8", "replace"), "damaged")
    with suppress(ValueError):
        read = tries.read(read_yaml, json.dumps(value, allow_nan=False), "json")
        assert read is None or read.value == value


def recipe_files(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    given = changed(rng.choice(recipes()), rng, value)
    try:
        data = yaml.safe_dump(given, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        data = text.encode("utf-8", "surrogatepass")

    def load(path: Path) -> None:
        found = recipe.load(str(path), plugins())
        ids = [step.id for step in found.steps]
        assert all("/" not in one and one not in ("", ".", "..") for one in [*ids, found.name])
        for step in recipe.resolve(found, plugins(), project={}, sets=[]):
            strict(step.values())

    tries.read(load, tries.file("recipe.yaml", data))
    tries.read(load, tries.file("recipe.yaml", damaged(data, rng)))
    tries.read(recipe.parse_set, text, ["synth", "train"], None)
    tries.read(recipe.parse_set, f"train.{text}", ["synth", "train"], "train")
    tries.read(recipe.parse_set, f"{rng.choice(NAMES)}.a={text}", ["synth"], "synth")
    tries.read(recipe.find, text, plugins())
    tables = b"[steps.train]\nbatch = 3\nmodel = 'a'\n[recipes.in2.synth]\nwords = [1, 2.5, {a = true}]\n"
    tries.file("lcx.toml", damaged(tables, rng))
    tries.read(recipe.project_values, "in2", tries.folder)


def settings_of_methods(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    for schema in schemas():
        name = rng.choice([*schema.model_fields, *NAMES])
        values = {name: rng.choice((value, text, rng.choice(ODD)))}
        if rng.random() < 0.3:
            values[rng.choice([*schema.model_fields])] = rng.choice(ODD)
        found = tries.read(lambda: validate(schema, values, where="step"))  # noqa: B023
        if found is not None:
            kept = json.loads(strict(found.model_dump(mode="json")))
            assert validate(schema, kept, where="what was kept") == found


ROWS: list[Any] = [
    {"context": "One two.", "question": "What?", "answer": "Two"},
    {"instruction": "Say it.", "input": "A text", "output": "It"},
    {"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "q"}]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [],
    },
    {"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"},
    {"context": {"title": ["a", "b"], "sentences": [["c"], ["d"]]}, "question": "q", "answer": "a"},
    {
        "title": "t",
        "paragraphs": [{"context": "c", "qas": [{"id": 1, "question": "q", "answers": [{"text": "a"}]}]}],
    },
    {"context": "c", "question": "q", "choices": ["a", "b"], "answer": 1},
    {"history": [["q1", "a1"]], "query": "q2", "response": "a2", "docs": [{"text": "d"}]},
    {"question": "q", "ctxs": [{"title": "t", "text": "c"}], "answers": ["a"], "pred": ["a"]},
]


def row_files(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    given = [changed(rng.choice(ROWS), rng, rng.choice((value, text))) for _ in range(rng.randrange(1, 4))]
    lines = "".join(json.dumps(row) + "\n" for row in given).encode()
    files = {"a.jsonl": lines, "a.json": json.dumps(given).encode(), "a.jsonl.gz": gzip.compress(lines, 1)}
    table = io.StringIO()
    out = csv.writer(table, delimiter=rng.choice(",;"))
    out.writerow([*(given[0] if isinstance(given[0], dict) else "a")])
    for row in given:
        out.writerow([json.dumps(one) for one in row.values()] if isinstance(row, dict) else [row])
    files["a.csv"] = table.getvalue().encode("utf-8", "surrogatepass")
    files["a.jsonl.gz"] = damaged(files["a.jsonl.gz"], rng)

    def read(path: Path) -> int:
        rejects = Rejects()
        tally = rows.Tally(rejects)
        for raw, found in tally.examples_in(path):
            with suppress(ValueError):  # an example without a question or an answer is none for training
                assert rows.bundle_of(found, raw.source).branches
            strict([found.context, found.question, found.answers, found.chosen, found.rejected])
            "".join([found.context, found.question, *found.answers]).encode()
        tally.notes()
        rejects.summary()
        tries.aside += len(rejects)
        tally.check(path)
        return tally.examples + len(rejects)

    for name, data in files.items():
        said = tries.read(read, tries.file(name, data))
        if name == "a.jsonl" and said is not None:
            assert said >= len(given)
        tries.read(read, tries.file(name, damaged(data, rng)))
        with suppress(LcxError):
            rows.read_bundles_of_rows(tries.folder / name, Rejects())
    columns = _parquet(given)
    if columns:
        tries.read(read, tries.file("a.parquet", columns))
        tries.read(read, tries.file("a.parquet", damaged(columns, rng)))


def _parquet(given: list[Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(pa.ArrowException, UnicodeError, OverflowError, TypeError, AttributeError):
        held = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(given), held)
        return held.getvalue()
    return b""


FILES: dict[str, bytes] = {
    "a.txt": "One.\n\nTwo — three.\n".encode(),
    "a.md": "# A\n\n* b [c](d)\n```\ne\n```\n".encode("utf-16"),
    "a.html": b"<!doctype html><html><head><title>t</title></head><body><p>a &amp; b<script>1<2</script></p></body>",
    "a.py": b"def f(a):\n    return '\\ud800'\n",
    "a.jsonl": b'{"text": "One two three"}\n{"context": "a", "question": "q", "answer": "b"}\n',
    "a.csv": b"text,question\none,two\n",
    "a.txt.gz": gzip.compress(b"One two three", mtime=0),
    "a": b"no ending at all",
}


def document_files(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)

    def read(path: Path, questions: bool, encoding: str = "utf-8") -> None:
        rejects = Rejects()
        try:
            for document in read_corpus(
                path, rejects=rejects, questions=questions, encoding=encoding, notes=[]
            ):
                assert document.text.strip()
                (document.id + document.text).encode()
                strict(dict(document.meta))
        finally:
            tries.aside += len(rejects)
            rejects.write(tries.folder / ".rejected")

    place = tries.folder / "corpus"
    place.mkdir(exist_ok=True)
    for name, data in FILES.items():
        tries.file(
            f"corpus/{name}", damaged(data + text.encode("utf-8", "surrogatepass") * rng.randrange(3), rng)
        )
        tries.read(read, place / name, rng.random() < 0.5)
    tries.read(read, place, True)
    tries.read(read, place, False, rng.choice(("latin-1", "utf-16", "cp932", "nope", "utf-8-sig")))


@cache
def saved_rows() -> dict[str, list[Any]]:
    """A few predictions of each task, in lcx's own form and in those of other tools."""
    found = {name: held[:4] for name, held in predictions(False).items()}
    found["ruler:multikey"] = [{"pred": "77", "outputs": ["77"], "length": 100, "index": n} for n in range(3)]
    found["csqa"] = [{"pred": "(A) x", "answer": "x", "candidates": ["x", "y"]}]
    found["gsm8k"] = [{"pred": "#### 12", "answer": "so #### 12"}]
    found["longbench:qasper"] = [{"doc_id": 0, "doc": {"answers": ["a"]}, "resps": [["a"]], "filter": "none"}]
    found["longbench:trec"] = [
        {"0": {"prediction": "a", "gold": ["a"]}, "1": {"prediction": "b", "gold": "c"}}
    ]
    return found


def prediction_files(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    place = tries.folder / "predictions"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in rng.sample(sorted(saved_rows()), 4):
        given = [changed(row, rng, rng.choice((value, text))) for row in saved_rows()[name]]
        rng.random() < 0.5 and given[0].update(pred=text) if isinstance(given[0], dict) else None

        def score(held: Any, name: str = name) -> None:
            scores, values = score_rows(name, held, rng.choice((None, None, None, "film")), span=3)
            strict(scores)
            assert len(values) >= 1

        tries.read(score, [row for row in given if isinstance(row, dict)])
        data = "".join(json.dumps(row) + "\n" for row in given).encode()
        tries.read(score, tries.file("p.jsonl", damaged(data, rng)))
        (place / f"predictions-{name.replace(':', '-')}.jsonl").write_bytes(data)
    tries.read(saved.collect, place, task, sorted(plugins().probes.names()))
    tries.read(saved.task_of_name, text, plugins().probes.names())


def replies(tries: Tries, seed: int, value: Any, text: str) -> None:
    for read in READERS.values():
        tries.linear(read, text)


def manifests(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    place = tries.folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_run(tries.folder), place)
    kept = json.loads((place / "manifest.json").read_text())
    how = rng.choice(("manifest", "record", "both"))
    for file in [place / "manifest.json"] * (how != "record") + [place / "synth" / RECORD] * (
        how != "manifest"
    ):
        held = file.read_bytes()
        file.write_bytes(
            damaged(held, rng)
            if rng.random() < 0.5
            else json.dumps(changed(json.loads(held), rng, value)).encode()
        )
    if how == "record" and rng.random() < 0.5:
        (place / "manifest.json").unlink()

    def use() -> None:
        run = Run(place, "toy")
        if run.recovered and how == "manifest":
            assert run.manifest == {name: value for name, value in kept.items() if name != SEAL}
        for step in _steps():
            key = run.key(step)
            run.state(key)
            run.digest_of(key, "data")
            run.lost(key)
            with suppress(LcxError):
                run.resolve(f"step:{key}")
            with suppress(LcxError):
                run.standing(step, {"settings": {"examples": 5}, "stage": step.stage, "inputs": {}})
            if run.state(key) == "done":
                strict(vars(run.result(step)))
        with run.lock():
            pass
        for step in _steps():
            with suppress(LcxError):
                run.begin(step, {"settings": {"examples": 6}, "stage": step.stage, "inputs": {}})

    before = _tree(place)
    tries.read(use)
    lost = [name for name in before if name.startswith("synth/data") and name not in _tree(place)]
    assert not lost or how != "manifest"


def _tree(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


@cache
def _toy() -> Plugins:
    return load_plugins(extra={"toy": Toy()})


_kept: dict[str, Any] = {}


def _steps() -> Any:
    return _kept["steps"]


def _run(folder: Path) -> Path:
    """A run with a done step, made once."""
    if "run" not in _kept:
        path = folder / "toy.yaml"
        path.write_text(TOY_RECIPE)
        _kept["steps"] = recipe.resolve(recipe.load(str(path), _toy()), _toy(), project={})
        run = Run(folder / "kept", "toy")
        with run.lock():
            for step in _steps()[:2]:
                run.begin(step, {"settings": {"examples": 5}, "stage": step.stage, "inputs": {}})
            data = run.folder("synth") / "data"
            data.mkdir()
            (data / "rows.jsonl").write_text("{}\n")
            run.finish(_steps()[0], StepResult(counts={"rows": 1}, files={"data": "data"}))
        _kept["run"] = run.path
    return Path(_kept["run"])


def parquet_bundles(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    place = tries.folder / "bundles"
    shutil.rmtree(place, ignore_errors=True)
    said = text.encode("utf-8", "replace").decode()
    branches = tuple(
        Branch(f"q{n}", said, "query", (n,), {"n": n, said: [said]}) for n in range(rng.randrange(1, 4))
    )
    given = [
        Bundle("a", branches, tuple(range(rng.randrange(9))), None, "in2", {"seed": seed}),
        Bundle(f"b{said}", branches, None, said * 3, "in2", {}),
    ]
    path = write_bundles(place, given)
    assert list(tries.read(read_bundles, place)) == given
    data = path.read_bytes()
    for _ in range(4):
        path.write_bytes(damaged(data, rng))
        found = tries.read(lambda: list(read_bundles(place)))
        assert found is None or found == given


def journals(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    path = tries.folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    said = text.encode("utf-8", "replace").decode()
    with Journal(path, of="x" if rng.random() < 0.5 else "") as journal:
        for number in range(4):
            journal.append({"unit": f"{number} {said}", "value": [said, number]})
        wrote = list(journal.entries())
    data = path.read_bytes()
    cut = data[: rng.randrange(len(data) + 1)]
    path.write_bytes(cut)

    def again() -> list[Any]:
        with Journal(path) as found:
            found.append({"unit": "new", "value": 1})
            return list(found.entries())

    found = tries.read(again)
    assert found is not None
    assert found[-1]["unit"] == "new"
    assert len(found) >= 1 + cut.count(b"\n") - (data.count(b"\n") - 4)
    assert found[:-1] == wrote[: len(found) - 1]
    path.write_bytes(damaged(data, rng))
    tries.read(again)


@cache
def _results(folder: Path) -> Path:
    return write_run(folder / "golden")


def report_inputs(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    place = tries.folder / "report"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_results(tries.folder), place)
    file = rng.choice(
        [*place.rglob("scores.json")] * 3
        + [*place.rglob("predictions-*.jsonl"), *place.rglob("journal.jsonl")]
    )
    data = file.read_bytes()
    if rng.random() < 0.4:
        file.write_bytes(damaged(data, rng))
    elif file.suffix == ".json":
        file.write_text(json.dumps(changed(json.loads(data), rng, rng.choice((value, text)))))
    else:
        lines = [json.loads(line) for line in data.splitlines()]
        file.write_text("".join(json.dumps(changed(one, rng, value)) + "\n" for one in lines))

    def report() -> None:
        with as_written(place):
            page = write_report(place).read_text(encoding="utf-8")
        assert "NaN" not in page.partition('id="data">')[2].partition("</script>")[0]

    tries.read(report)


class Talks:
    """A tokenizer whose chat template does as it likes."""

    chat_template = "x"

    def __init__(self, rng: random.Random, text: str) -> None:
        self.rng, self.text = rng, text

    def apply_chat_template(self, turns: list[Mapping[str, str]], **options: Any) -> str:
        if self.rng.random() < 0.1:
            raise ValueError(self.text)
        kept = [turn["content"] for turn in turns for _ in range(self.rng.choice((1, 1, 1, 1, 1, 0, 2)))]
        if self.rng.random() < 0.1:
            self.rng.shuffle(kept)
        return self.text + self.text.join(kept) + (self.text if options.get("add_generation_prompt") else "")


def templates(tries: Tries, seed: int, value: Any, text: str) -> None:
    rng = random.Random(seed)
    held = f"{text}{{context}}\n{text}{{question}}{text}".encode("utf-8", "surrogatepass")
    for data in (held, damaged(held, rng)):
        path = tries.file("template.txt", data)
        found = tries.read(load_template, path)
        assert found is None or found.hash
        tries.read(lambda: load_prompt("template", str(tries.folder), needs=("context",)))
    tries.read(load_template, text)
    assert tries.read(load_template, "in2") == TEMPLATES["in2"]
    talks = Talks(rng, text)
    tries.read(chat_turn, talks)
    roles = rng.choice((["user"], ["system", "user"], ["user", "assistant", "user"]))
    tries.read(chat_script, talks, roles)
    tries.read(fill, "a {context} {{b}} {question} {context", {"context": text, "question": "{context}"})


Target = Callable[[Tries, int, Any, str], None]
TARGETS: dict[str, tuple[Target, float]] = {
    "YAML": (yaml_texts, 6),
    "recipes, --set, lcx.toml": (recipe_files, 3),
    "settings": (settings_of_methods, 6),
    "rows": (row_files, 2),
    "documents": (document_files, 1),
    "prediction files": (prediction_files, 2),
    "replies": (replies, 8),
    "manifests and records": (manifests, 1),
    "Parquet bundles": (parquet_bundles, 3),
    "journals": (journals, 1),
    "report inputs": (report_inputs, 0.5),
    "templates": (templates, 6),
}
"""Each target, and how many times `LCX_FUZZ` draws it gets: those that are slow get few."""


@pytest.mark.parametrize(
    "times", [pytest.param(1, marks=pytest.mark.slow), pytest.param(NIGHTLY, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_a_result_or_an_error_of_ours(
    name: str, times: int, tmp_path: Path, record_property: Callable[[str, Any], None], monkeypatch: Any
) -> None:
    target, share = TARGETS[name]
    monkeypatch.chdir(tmp_path)
    tries = Tries(tmp_path)

    @settings(
        max_examples=max(1, round(DRAWS * share * times)),
        report_multiple_bugs=True,
        database=None,
        deadline=None,
        derandomize=times == 1,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=SEEDS, value=VALUES, text=TEXTS)
    def draw(seed: int, value: Any, text: str) -> None:
        target(tries, seed, value, text)

    try:
        draw()
    finally:
        record_property("tried", (name, tries.inputs, tries.refused, tries.aside))
