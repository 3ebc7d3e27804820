"""The plugin guide: its package is small, whole and runs as it is printed; its other blocks run too."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import types
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcx import hookspecs, plugins
from lcx.evaluation.planning import find_task
from lcx.evaluation.task import Source, options_of
from lcx.records import Document
from tests.conftest import Ran
from tests.docs.test_docs import ROOT, blocks

GUIDE = ROOT / "docs" / "plugins.md"
FILE = re.compile(r"^\*\*`([\w./]+)`\*\*\n\n```\w+\n(.*?)^```$", re.M | re.S)
MOST_LINES = 150


def package() -> dict[str, str]:
    """The files of the guide's package by their paths."""
    return dict(FILE.findall(GUIDE.read_text(encoding="utf-8")))


def extract(folder: Path) -> Path:
    """Write the guide's package into a folder."""
    for name, text in package().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def python_block(word: str) -> dict[str, Any]:
    """What the guide's only loose block with a word in it defines."""
    loose = [body for body in blocks(GUIDE, "python") if body not in package().values() and word in body]
    assert len(loose) == 1, word
    module: dict[str, Any] = {}
    exec(compile(loose[0], "plugins.md", "exec"), module)
    return module


# ---- the package, read


def test_the_package_is_whole_and_small() -> None:
    files = package()
    assert set(files) == {
        "pyproject.toml",
        "lcx_cloze/__init__.py",
        "lcx_cloze/cloze.py",
        "lcx_cloze/cloze.yaml",
    }
    assert sum(len(text.splitlines()) for text in files.values()) <= MOST_LINES
    assert tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]["lcx"] == {"cloze": "lcx_cloze"}
    assert yaml.safe_load(files["lcx_cloze/cloze.yaml"])["method"] == "cloze"
    defined = {
        name
        for node in ast.parse(files["lcx_cloze/cloze.py"]).body
        for name in ([node.name] if hasattr(node, "name") else [t.id for t in getattr(node, "targets", [])])
    }
    named = set(re.findall(r'"lcx_cloze\.cloze:(\w+)"', files["lcx_cloze/__init__.py"]))
    assert len(named) == 6
    assert named <= defined
    assert all(len(line) <= 110 for text in files.values() for line in text.splitlines())


# ---- the package, loaded


@pytest.fixture
def cloze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[plugins.Plugins]:
    """The core with the guide's package, for this process's command line too."""
    monkeypatch.syspath_prepend(str(extract(tmp_path / "package")))
    monkeypatch.chdir(tmp_path)
    found = plugins.load(extra={"cloze": importlib.import_module("lcx_cloze")})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "lcx_cloze"]:
        del sys.modules[name]


def records(documents: int, lines: int) -> list[str]:
    """Documents of lines `* key value ...`, whose keys look nothing alike."""
    return [
        "\n".join(f"* {chr(97 + n) * 5}{d} value{n}of{d} and more words" for n in range(lines))
        for d in range(documents)
    ]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_its_synth_and_score_make_data(
    cloze: plugins.Plugins, cli: Callable[..., Ran], tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate([*records(5, 8), "\n".join(f"* alone{n}" for n in range(9))]):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    few = [
        "--set",
        "synth.tokenizer=simple",
        "--set",
        "synth.context_tokens=100",
        "--set",
        "synth.contexts=30",
    ]
    dry = cli("synth", "--recipe", "cloze", "--corpus", "texts", *few, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    made = cli("synth", "--recipe", "cloze", "--corpus", "texts", "--run", "run", *few, "--json")
    assert made.code == 0, made.err
    short = made.json["counts"]["set aside: no answer in the reply"]
    assert 0 < short < 15
    assert made.json["metrics"]["questions"] == 30 - short
    scored = cli("score", "--recipe", "cloze", "--run", "run", "--set", "score.top=1", "--json")
    assert scored.code == 0, scored.err
    rows = rows_of(tmp_path / "run" / "score" / "scores.jsonl")
    kept = [row["id"] for row in rows if row["found"]]
    assert len(rows) == 30 - short
    assert len(kept) > len(rows) / 2  # the letters of a key lead to its line

    from lcx.data.bundles import read_bundles
    from lcx.data.table import load_table

    data = tmp_path / "run" / "score" / "data"
    table, bundles = load_table(data), read_bundles(data)
    assert [bundle.id for bundle in bundles] == kept
    for bundle in bundles:
        [branch] = bundle.branches
        assert f"* {branch.answer} and" in table.text(bundle.plan[branch.gold[0]])
        assert branch.answer.startswith(branch.question + " value")
    none = cli(
        "score", "--recipe", "cloze", "--run", "run", "--set", "score.retriever=letters", "--json", "--force"
    )
    assert none.code == 2
    assert "cloze-letters" in none.err


def test_its_task_is_scored_by_its_metric(cloze: plugins.Plugins) -> None:
    task = find_task("cloze:next", cloze)
    documents = [Document(str(n), text) for n, text in enumerate(records(3, 6))]
    options = options_of(task, {"lines": 4}, {"sets": 2})
    bundles = list(task.samples(Source(documents), options))
    assert [len(bundle.branches) for bundle in bundles] == [4, 4]
    for branch in bundles[1].branches:
        [[start, end]] = branch.meta["gold"]
        assert bundles[1].context[start:end].startswith(f"* {branch.meta['value']} ")
    row = {"value": "key river", "query": "key"}
    scores = [task.score({**row, "pred": pred}) for pred in (" key river and", "key lake", "")]
    assert scores == [1.0, 0.0, 0.0]
    with pytest.raises(Exception, match="3 lines, not cloze:next's 4"):
        list(task.samples(Source([Document("0", "a b c\n" * 3)]), options))


def test_its_forecast_counts_calls() -> None:
    settings = types.SimpleNamespace(contexts=3, context_tokens=50)
    assert python_block("# a forecast")["forecast"](types.SimpleNamespace(settings=settings)) == {
        "calls": 3,
        "context_tokens": 150,
    }


# ---- the package, installed


def python(place: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    line = [str(place / "bin" / "python"), *words]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def light_venv(place: Path) -> Path:
    """A venv that sees what this interpreter's environment holds; what is installed into it stays in it."""
    venv.create(place, with_pip=False)
    [library] = (place / "lib").glob("python*/site-packages")
    seen = [path for path in sys.path if path.rstrip("/").endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in seen]
    (library / "seen.pth").write_text("\n".join(lines) + "\n")
    return library


def tree(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return found - {"lcx_cloze"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_built_installed_run_and_uninstalled(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny_model()
    source, place, work = extract(tmp_path / "source"), tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    library = light_venv(place)
    before = tree(library)

    def lcx(*words: str, code: int = 0) -> str:
        done = python(place, "-m", "lcx", *words, cwd=work)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout if code == 0 else done.stderr

    def ours(*words: str) -> None:
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    ours("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source))
    [wheel] = (tmp_path / "dist").glob("lcx_cloze-*.whl")
    pip = ("pip", "--python", str(place / "bin" / "python"), "--disable-pip-version-check", "-q")
    ours(*pip, "install", "--no-deps", "--no-index", str(wheel))
    assert (library / "lcx_cloze" / "cloze.yaml").is_file()

    listed = {row["name"]: row for row in json.loads(lcx("plugins", "list", "--json"))["plugins"]}
    assert listed["cloze"]["provides"] == {
        "methods": ["cloze"],
        "recipes": ["cloze"],
        "llms": ["cloze-writer"],
        "retrievers": ["cloze-letters"],
        "metrics": ["cloze_words"],
        "probes": ["cloze:next"],
    }
    lcx("plugins", "check", "cloze")
    lcx("recipes", "validate", "cloze")
    report = json.loads(lcx("run", "--recipe", "cloze", "--run", "run", "--json", "--set", "eval.sets=2"))
    synth, score, train, evaluation = report["steps"]
    assert [step["state"] for step in report["steps"]] == ["done"] * 4
    assert synth["metrics"]["questions"] == 64
    rows = rows_of(work / "run" / "score" / "scores.jsonl")
    assert len(rows) == 64
    assert score["metrics"]["found"] == sum(row["found"] for row in rows) / 64 > 0.5
    manifest = json.loads((work / "run" / "manifest.json").read_text())["steps"]
    assert manifest["score"]["extra"]["retriever"] == {"retriever": "cloze-letters"}
    assert train["counts"]["bundles"] == sum(row["found"] for row in rows)
    assert (work / "run" / "train" / "model" / "config.json").is_file()
    answers = rows_of(work / "run" / "eval" / "train" / "predictions-cloze-next.jsonl")
    assert len(answers) == 64
    right = [row["pred"].split()[:2] == row["value"].split() for row in answers]
    assert [row["score"] for row in answers] == [float(one) for one in right]
    assert evaluation["metrics"]["average"] == sum(right) / 64 > 0.5

    ours(*pip, "uninstall", "-y", "lcx-cloze")
    assert tree(library) == before
    assert "cloze" not in lcx("plugins", "list")
    assert "cloze" in lcx("train", "--recipe", "cloze", code=2)


# ---- the tutorial


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_tutorial_from_an_empty_folder_to_a_run(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny_model()
    place, text = tmp_path / "venv", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    library = light_venv(place)
    import pip

    (library / "pip.pth").write_text(f"{Path(pip.__file__).parents[1]}\n")
    for name, module in (("lcx", "lcx"), ("pytest", "pytest")):
        (place / "bin" / name).write_text(f'#!/bin/sh\nexec "{place}/bin/python" -m {module} "$@"\n')
        (place / "bin" / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    environment["PATH"] = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    said = ""
    parts = re.split(r"^(```sh\n.*?^```$|\*\*`[\w./]+`\*\*\n\n```\w+\n.*?^```$)", text, flags=re.M | re.S)
    for part in parts:
        for name, body in FILE.findall(part):
            assert name.startswith("tests/") or (tmp_path / "lcx-middle" / name).is_file()
            (tmp_path / "lcx-middle" / name).write_text(body, encoding="utf-8")
        if part.startswith("```sh"):
            line = part.removeprefix("```sh\n").removesuffix("```")
            done = subprocess.run(
                ["bash", "-ec", line],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            said += done.stdout
    assert "installed middle (lcx-middle 0.1.0)" in said
    assert re.search(r"\b\d passed", said)
    run = tmp_path / "runs" / "middle"
    answers = rows_of(run / "eval" / "train" / "predictions-middle-next.jsonl")
    assert len(answers) == 128
    assert len(rows_of(run / "eval" / "tiny" / "predictions-middle-next.jsonl")) == 128
    assert {row["score"] for row in answers} <= {0.0, 1.0}


# ---- the other blocks


def test_every_hook_and_its_arguments_are_documented() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("lcx_")}
    assert len(hooks) >= 12
    for name, function in hooks.items():
        signature = ", ".join(inspect.signature(function).parameters)
        assert f"`{name}({signature})`" in text, name


def test_every_registration_has_a_whole_example() -> None:
    code = [ast.parse(body) for body in blocks(GUIDE, "python")]
    defined = {node.name for tree in code for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    hooks = {name for name in vars(hookspecs) if name.startswith("lcx_register_")}
    assert hooks - defined == set()
    assert "lcx_train" in defined  # a wrapped stage; the others of its kind are alike
    table = GUIDE.read_text(encoding="utf-8").partition("| to bring |")[2].partition("\n\n")[0]
    assert {name for name in hooks if f"`{name}`" not in table} == set()


def test_the_plugin_guides_command_counts(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = blocks(GUIDE, "python")
    [lines] = [body for body in written if "# lcx_mine_lines.py" in body]
    [names] = [body for body in written if "def lcx_register_commands" in body]
    module, plugin = types.ModuleType("lcx_mine_lines"), types.ModuleType("lcx_mine")
    exec(compile(lines, "plugins.md", "exec"), module.__dict__)
    exec(compile(names, "plugins.md", "exec"), plugin.__dict__)
    monkeypatch.setitem(sys.modules, "lcx_mine_lines", module)
    found = plugins.load(extra={"mine": plugin})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    (tmp_path / "text").write_text("one two\nthree\n")
    assert cli("lines", str(tmp_path / "text"), "--words").out == "lines 2, words 3\n"
    assert cli("lines", "none").code == 2


def test_the_plugin_guides_judged_task_is_rated(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.plugins.longreward.eval_scripts import Backends, Scripted

    [judged] = [body for body in blocks(GUIDE, "python") if "# lcx_mine_judged.py" in body]
    module = types.ModuleType("lcx_mine_judged")
    exec(compile(judged, "plugins.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "lcx_mine_judged", module)

    class Plugin(Backends):
        @plugins.pluggy.HookimplMarker("lcx")
        def lcx_register_probes(self, register: Callable[..., None]) -> None:
            register("mine:about", "lcx_mine_judged:ABOUT")

    judge = Scripted(lambda request: "[[3]]" if "{odd}" in request.messages[0]["content"] else "well")
    found = plugins.load(
        extra={"mine": Plugin(model=Scripted(lambda request: "it is about it"), judge=judge)}
    )
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name, text in (("a", "about {odd} things"), ("b", "another")):
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    line = "eval --model model:x --task mine:about --judge judge:x --corpus texts --run out --json"
    ran = cli(*line.split(), "--set", "eval.sets=2", "--set", "eval.judging.tries=2")
    assert ran.code == 0, ran.err
    text = (tmp_path / "out/eval/model-x/predictions-mine-about.jsonl").read_text()
    rows = [json.loads(row) for row in text.splitlines()]
    assert [row["score"] for row in rows] == [3.0, None]
    assert rows[1]["failed"] == "no [[rating]] in the reply"
    assert len(judge.requests) == 1 + 2
    assert "Answer: it is about it" in judge.requests[0].messages[0]["content"]


def test_the_plugin_guides_code_wraps_training() -> None:
    module = python_block("lcx_train")

    class Plugin:
        lcx_train = staticmethod(module["lcx_train"])

    class Trains:
        @staticmethod
        @plugins.pluggy.HookimplMarker("lcx")
        def lcx_train(step: Any, run: Any, ctx: Any) -> Any:
            from lcx.context import StepResult

            return StepResult(metrics={"loss": 1.0})

    found = plugins.load(extra={"guide": Plugin(), "trains": Trains()})
    result = found.manager.hook.lcx_train(step=type("S", (), {"method": "none"})(), run=None, ctx=None)
    assert result.metrics["loss"] == 1.0
    assert result.metrics["my_seconds"] >= 0


def test_the_plugin_guides_losses_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lcx.training.losses import Answers, find_loss, loss_options

    written = blocks(GUIDE, "python")
    [losses] = [body for body in written if "lcx_mine_losses.py" in body]
    [names] = [body for body in written if "def lcx_register_losses" in body]
    module, plugin = types.ModuleType("lcx_mine_losses"), types.ModuleType("lcx_mine")
    exec(compile(losses, "plugins.md", "exec"), module.__dict__)
    exec(compile(names, "plugins.md", "exec"), plugin.__dict__)
    monkeypatch.setitem(sys.modules, "lcx_mine_losses", module)
    known = plugins.load(extra={"mine": plugin}).losses
    answers = Answers(
        sums=torch.tensor([-2.0, -6.0, -40.0, -2.0]),
        lengths=torch.tensor([2.0, 4.0, 2.0, 2.0]),
        bundle=torch.tensor([0, 0, 1, 1]),
        chosen=torch.tensor([True, False, True, False]),
        prompts=2,
    )
    hinge, capped = find_loss(known, "hinge"), find_loss(known, "logo-capped")
    judged = hinge.compute(answers, **loss_options(hinge, {"beta": 1.0}))
    assert judged.losses.tolist() == [0.5, 20.0]  # 1 - (-1 + 1.5), 1 - (-20 + 1)
    judged = capped.compute(answers, **loss_options(capped, {"cap": 7.0}))
    assert judged.losses.tolist() == pytest.approx([0.226928, 7.0])  # log(1 + e^-2) + 0.1
    assert judged.parts["capped"].tolist() == [0.0, 1.0]
