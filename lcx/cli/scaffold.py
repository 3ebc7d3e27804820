"""The package that `lcx plugins new` writes: whole, small, and with tests that pass at once.

What the guide explains is here as code; `{{name}}`, `{{ident}}` and `{{command}}` stand for the plugin's name, the same
as an identifier, and the name of its command.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from lcx.errors import UsageError, suggestion

PARTS = {
    "method": "a method with a stage `synth` of its own, trained and evaluated by the core",
    "task": "a probe: questions about a long text",
    "metric": "how an answer is scored",
    "loss": "a preference loss",
    "llm": "a text generator behind --llm",
    "retriever": "a retriever over embeddings",
    "command": "a subcommand of lcx",
}
"""What a package may have besides its recipe and its hook."""
USUAL = ("method", "task", "metric")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def wanted_parts(text: str | None) -> tuple[str, ...]:
    """The parts that `--with` names, in the order of PARTS. Raises UsageError for an unknown one."""
    if text is None:
        return USUAL
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["all"]:
        return tuple(PARTS)
    if words == ["none"]:
        return ()
    for word in words:
        if word not in PARTS:
            raise UsageError(
                f"there is no part '{word}'. {suggestion(word, [*PARTS, 'all', 'none'])}".rstrip(),
                why=f"parts: {', '.join(PARTS)}; or all, or none. A recipe and a hook are always there.",
            )
    return tuple(part for part in PARTS if part in words)


def checked_plugin_name(name: str, taken: Collection[str]) -> str:
    """The name. Raises UsageError for one that could not name a package, or that another plugin has."""
    if not NAME.fullmatch(name) or len(name) > 40:
        raise UsageError(
            f"a plugin cannot be called {name!r}",
            why="small letters and digits, with single '-' between them",
        )
    if name in taken:
        raise UsageError(f"'{name}' is taken: a plugin, a method or a recipe of that name is there already")
    return name


def package(name: str, parts: Collection[str], *, commands: Collection[str] = ()) -> dict[str, str]:
    """The files of a package, by their paths in its folder."""
    ident = name.replace("-", "_")
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": _readme(parts),
        ".gitignore": "__pycache__/\n*.egg-info/\nbuild/\ndist/\nruns/\n.venv/\n",
        ".github/workflows/test.yml": WORKFLOW,
        f"lcx_{ident}/__init__.py": _module(parts),
        f"lcx_{ident}/recipes/{name}.yaml": _recipe(parts),
        f"tests/test_{ident}.py": _tests(parts),
    }
    files |= {f"lcx_{ident}/{part}.py": CODE[part] for part in parts}
    if "task" in parts and "metric" not in parts:
        files[f"lcx_{ident}/task.py"] = TASK.replace('score="{{ident}}_words"', "score=right").replace(
            "\nNEXT = ",
            '\ndef right(row):\n    return float(row["pred"].split()[:2] == row["value"].split())\n\n\nNEXT = ',
        )
    words = {
        "{{name}}": name,
        "{{ident}}": ident,
        "{{command}}": f"{name}-count" if name in commands else name,
        "{{parts}}": ", ".join(parts) or "none",
    }
    for file, text in files.items():
        for mark, value in words.items():
            text = text.replace(mark, value)
        files[file] = text
    return files


def write_package(folder: Path, files: dict[str, str]) -> None:
    """Write a package into a folder that is new or empty. Raises UsageError for any other."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", hint="--to FOLDER puts the package elsewhere.")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


# ---- the files


PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "lcx-{{name}}"
version = "0.1.0"
description = "A plugin for lcx"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["lcx"]

[project.optional-dependencies]
test = ["pytest>=8"]

# The name is what `lcx plugins list`, LCX_PLUGINS and errors call the plugin; the value is the module with the hooks.
[project.entry-points.lcx]
{{name}} = "lcx_{{ident}}"

[tool.setuptools]
packages = ["lcx_{{ident}}"]

[tool.setuptools.package-data]
lcx_{{ident}} = ["recipes/*.yaml"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
"""

WORKFLOW = """\
name: test
on:
  push:
  pull_request:
  schedule:
    - cron: "17 5 * * 1"  # a new lcx shows here first
jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      fail-fast: false
      matrix:
        python: ["3.11", "3.13"]
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: ${{ matrix.python }}
          cache: pip
      # a build for the CPU: a runner has no GPU, and the usual one brings gigabytes of CUDA
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install -e '.[test]'
      - run: pytest
      - run: lcx plugins check {{name}}
      - run: lcx recipes validate {{name}}
"""


def _readme(parts: Collection[str]) -> str:
    uses = {
        "method": "the method `{{name}}`: `lcx synth --recipe {{name}}` makes its data",
        "task": "the task `{{name}}:next`: `lcx eval --model MODEL --task {{name}}:next`",
        "metric": 'the metric `{{ident}}_words`: `score="{{ident}}_words"` in a task',
        "loss": "the loss `{{name}}`: `loss: {{name}}` in a step of the method `preference`",
        "llm": "the text generator `{{name}}`: `--llm {{name}}`",
        "retriever": "the retriever `{{name}}`: `--set score.retriever={{name}}`",
        "command": "the command `lcx {{command}}`",
    }
    lines = [f"- {uses[part]}" for part in parts]
    lines += [
        "- the recipe `{{name}}`: `lcx run --recipe {{name}}`",
        "- a hook that notes how long training took",
    ]
    return README.replace("{{brings}}", "\n".join(lines))


README = """\
# lcx-{{name}}

A plugin for lcx. It brings

{{brings}}

```sh
pip install -e '.[test]'
pytest
lcx plugins check {{name}}
lcx run --recipe {{name}}
```

`lcx plugins uninstall {{name}}` takes it away; `LCX_PLUGINS=-{{name}}` before a command leaves it out.
"""

REGISTRATIONS = {
    "llm": ("llms", '    register("{{name}}", "lcx_{{ident}}.llm:Writer")\n'),
    "retriever": ("retrievers", '    register("{{name}}", "lcx_{{ident}}.retriever:open_letters")\n'),
    "loss": ("losses", '    register("{{name}}", "lcx_{{ident}}.loss:HINGE")\n'),
    "metric": ("metrics", '    register("{{ident}}_words", "lcx_{{ident}}.metric:begins_with")\n'),
    "task": ("probes", '    register("{{name}}:next", "lcx_{{ident}}.task:NEXT")\n'),
    "command": (
        "commands",
        '    register("{{command}}", "lcx_{{ident}}.command:main", help="Count the lines and words of a text.")\n',
    ),
}


def _module(parts: Collection[str]) -> str:
    """The module with the hooks."""
    lines = [
        '"""A plugin for lcx. Listing recipes imports this module: what is heavy lies in others, named by texts."""',
        "",
        "import time",
        "from pathlib import Path",
        "",
        "from lcx import hookimpl",
    ]
    if "method" in parts:
        lines += [
            "from lcx.data.settings import CorpusSettings",
            "from lcx.llm.settings import Calling",
            "from lcx.settings import setting",
            "from lcx.steps import EVAL, TRAIN, Method, Stage",
        ]
    text = "\n".join(lines) + "\n\nHOOK_API = 2  # the version of lcx's hooks that this is made for\n"
    text += METHOD_SETTINGS if "method" in parts else ""
    text += RECIPES
    for kind, line in (REGISTRATIONS[part] for part in parts if part in REGISTRATIONS):
        text += f"\n\n@hookimpl\ndef lcx_register_{kind}(register):\n{line}"
    return text + HOOK


METHOD_SETTINGS = '''

class Synth(Calling, CorpusSettings):
    """Settings of the stage `synth`. CorpusSettings says which texts are read, Calling how models are asked."""

    contexts: int = setting(64, ge=1, description="contexts that are made")
    context_tokens: int = setting(4096, ge=32, description="most tokens of a context")


@hookimpl
def lcx_register_methods(register):
    synth = Stage(Synth, "lcx_{{ident}}.method:synth", "lcx_{{ident}}.method:forecast")
    register(Method("{{name}}", "the word that follows another one", {"synth": synth, "train": TRAIN, "eval": EVAL}))
'''

RECIPES = """

@hookimpl
def lcx_register_recipes(register):
    register(Path(__file__).parent / "recipes")
"""

HOOK = '''

@hookimpl(wrapper=True)
def lcx_train(step, run, ctx):
    """Note how long training took, whatever the method."""
    began = time.monotonic()
    result = yield
    result.metrics["{{ident}}_seconds"] = round(time.monotonic() - began, 3)
    return result
'''


def _recipe(parts: Collection[str]) -> str:
    tasks = 'tasks: ["{{name}}:next"], ' if "task" in parts else 'tasks: ["val:document"], '
    if "method" not in parts:
        asked = '  - {id: eval, tasks: ["{{name}}:next"], options: {}}\n' if "task" in parts else ""
        return (
            "# lcx run --recipe {{name}}\nname: {{name}}\nextends: in2-tiny\n"
            'summary: "IN2 on a tiny model, with less data"\nsteps:\n  - {id: synth, examples: 640}\n' + asked
        )
    return (
        "# In minutes on a CPU, with no download:\n#\n#   lcx run --recipe {{name}}\n#\n"
        "# With a model of your own: --model PATH_OR_ID --corpus FOLDER --set train.template=auto\n"
        'name: {{name}}\nmethod: {{name}}\nsummary: "The word that follows another one; with a tiny model, on a CPU"\n'
        "steps:\n"
        '  - {stage: synth, corpus: "stdlib:records", tokenizer: words, context_tokens: 415}\n'
        "  - {stage: train, model: tiny, template: tiny, learning_rate: 0.002, batch: 16}\n"
        f'  - {{stage: eval, {tasks}corpus: "stdlib:records@1", template: tiny, max_new_tokens: 4, sets: 8}}\n'
    )


METHOD = '''\
"""The stage `synth` of the method {{name}}: long contexts of lines, and a question about one of them."""

from lcx.data.bundles import bundle_row, row_bundle
from lcx.data.plans import fill_plan, plan_rng
from lcx.records import Branch, Bundle
from lcx.steps import SetAside


async def synth(work):
    """Ask how a line goes on after its first word. What is drawn follows from the seed and the number alone."""
    settings, table = work.settings, work.table(min_tokens=1, mode="lines")

    async def make(number):
        rng = plan_rng(settings.seed, number)
        gold = rng.randrange(len(table))
        words = [word for word in table.text(gold).split() if word.strip("*:")]
        if len(words) < 3:
            raise SetAside("a line of fewer than three words", table.text(gold)[:80])
        plan = fill_plan(rng, table, [gold], settings.context_tokens)
        branch = Branch(words[0], " ".join(words[:2]), gold=plan.gold_places)
        return bundle_row(Bundle(f"{{name}}-{number:05d}", (branch,), plan=plan.indices))

    rows = list((await work.each(range(settings.contexts), make, key=int, label="contexts")).values())
    for shard in work.shards(len(rows)):
        shard.write(row_bundle(rows[place]) for place in shard.places)
    return work.done({"questions": len(rows)})


def forecast(work):
    """What `--dry-run` prints; it imports no torch."""
    settings = work.settings
    return {"contexts": settings.contexts, "tokens": settings.contexts * settings.context_tokens}
'''

TASK = '''\
"""The task {{name}}:next: how each line of a long text goes on after its first word."""

from lcx.errors import UsageError
from lcx.evaluation.task import ProbeOptions, Task
from lcx.records import Branch, Bundle
from lcx.settings import setting


class Options(ProbeOptions):
    """Set by `--set eval.options.{{name}}:next.lines=64`."""

    lines: int = setting(32, ge=2, description="lines of a context")


def samples(source, options):
    """A context a set, a question a line; the same source and options give the same questions."""
    for number, document in zip(range(options.sets), source.documents):
        lines = [line for line in document.text.split("\\n") if line.split()[2:]][: options.lines]
        if len(lines) < options.lines:
            raise UsageError(f"{document.id} has {len(lines)} lines, not {{name}}:next's {options.lines}")
        context, asked = "\\n".join(lines), []
        for place, line in enumerate(lines):
            key, value = [word for word in line.split() if word.strip("*:")][:2]
            start = context.index(line)
            meta = {"set": number, "position": place, "query": key, "value": f"{key} {value}"}
            meta["gold"] = [[start, start + len(line)]]
            asked.append(Branch(key, meta["value"], "query", meta=meta))
        yield Bundle(f"{{name}}:{source.seed}:{number}", tuple(asked), context=context)


NEXT = Task(
    "{{name}}:next",
    "a word -> the next one",
    samples,
    score="{{ident}}_words",
    options=Options,
    row_fields=("query", "value"),
    key_field="query",
)
'''

METRIC = '''\
"""How an answer is scored: 0 to 1, or None where its row cannot be scored."""


def begins_with(pred, row):
    """1 where the answer begins with what was asked for. `row` has the fields of the question's `meta`."""
    wanted = row["value"].split()
    return float(pred.split()[: len(wanted)] == wanted)
'''

LOSS = '''\
"""A preference loss: a function of the answers' log-probabilities, and its name."""

import torch

from lcx.training.losses import Answers, Loss, LossOutput


def hinge_loss(answers: Answers, *, beta: float) -> LossOutput:
    """max(0, 1 - beta (m_w - m_l)) on average over the rejected answers; m is a mean log-probability."""
    means = answers.means
    losses = answers.over_rejected(torch.relu(1 - beta * answers.gaps(means)))
    return LossOutput(losses, rewards=beta * means.detach())


HINGE = Loss("{{name}}", hinge_loss, defaults={"beta": 2.0})
'''

LLM = '''\
"""A text generator behind `--llm {{name}}:MODEL`: here one of rules, which answers with the last line's first words."""

from lcx.llm.protocol import Completion, Response
from lcx.retrieval import only_options


class Writer:
    """`model` is what follows the colon, `options` are those of the setting `llm_options`."""

    def __init__(self, model, options):
        only_options("{{name}}", options, ("words", "device"))
        self.words = int(options.get("words", 3))

    def generate(self, requests):
        """One Response for each Request, in order."""
        asked = [request.messages[-1]["content"].split("\\n")[-1] for request in requests]
        return [Response((Completion(" ".join(line.split()[: self.words])),)) for line in asked]

    def describe(self):
        """Whatever changes the answers belongs here: it goes into the manifest."""
        return {"backend": "{{name}}", "words": self.words}

    def close(self):
        """Free what was opened."""
'''

RETRIEVER = '''\
"""A retriever by the name {{name}}: texts are near that have the same letters."""

import numpy as np

from lcx.retrieval import Dense, only_options


def open_letters(model, options):
    """`model` is what follows the colon of {{name}}:MODEL."""
    only_options("{{name}}", options, ())

    def embed(texts, queries):
        return np.array([np.bincount(list(text.encode()), minlength=256) for text in texts])

    return Dense(embed, {"retriever": "{{name}}"})
'''

COMMAND = '''\
"""The command `lcx {{command}}`; this module is imported when it is called. Arguments are typer's."""

from pathlib import Path
from typing import Annotated

import typer

from lcx.errors import UsageError


def main(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text.")],
    words: Annotated[bool, typer.Option("--words", help="Count words, too.")] = False,
) -> None:
    """Count the lines of a text."""
    if not file.is_file():
        raise UsageError(f"there is no file {file}", hint="lcx {{command}} README.md")
    text = file.read_text(encoding="utf-8")
    print(f"lines {len(text.splitlines())}")
    if words:
        print(f"words {len(text.split())}")
'''

CODE = {
    "method": METHOD,
    "task": TASK,
    "metric": METRIC,
    "loss": LOSS,
    "llm": LLM,
    "retriever": RETRIEVER,
    "command": COMMAND,
}


def _tests(parts: Collection[str]) -> str:
    return TESTS + "".join(f"\n\n{TESTS_OF[part]}" for part in parts)


TESTS = '''\
"""Everything that the plugin brings, without a GPU or a download. `pytest` runs them installed or from the checkout."""

from pathlib import Path

import pytest

import lcx_{{ident}}
from lcx import plugins, recipe
from lcx.cli.boundary import run

RECIPES = sorted((Path(lcx_{{ident}}.__file__).parent / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def loaded(monkeypatch, tmp_path):
    """lcx with this checkout, in place of an installed copy; also for the command line in this process."""
    monkeypatch.setenv("LCX_PLUGINS", "-{{name}}")
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    found = plugins.load(extra={"{{name}}": lcx_{{ident}}})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    monkeypatch.chdir(tmp_path)
    return found


def test_nothing_is_wrong_with_it(monkeypatch):
    if "{{name}}" not in [one.name for one in plugins.installed()]:
        pytest.skip("it is not installed: pip install -e .")
    monkeypatch.undo()
    assert run(["plugins", "check", "{{name}}"]) == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_fit_their_settings(path, loaded):
    assert recipe.resolve(recipe.load(str(path), loaded), loaded, project={})
    assert run(["recipes", "validate", str(path)]) == 0


def test_the_hook_notes_seconds(loaded):
    from lcx.steps import StepResult

    class Trains:
        @staticmethod
        @plugins.pluggy.HookimplMarker("lcx")(tryfirst=True)
        def lcx_train(step, run, ctx):
            return StepResult(metrics={"loss": 1.0})

    loaded.manager.register(Trains())
    result = loaded.manager.hook.lcx_train(step=None, run=None, ctx=None)
    assert result.metrics["loss"] == 1.0
    assert result.metrics["{{ident}}_seconds"] >= 0
'''

TESTS_OF = {
    "method": """\
def test_the_method_makes_data(tmp_path):
    from lcx.data.bundles import read_bundles
    from lcx.data.table import load_table

    (tmp_path / "text.txt").write_text("\\n".join(f"key{n} value{n} and more words" for n in range(40)))
    few = ["--set", "synth.contexts=6", "--set", "synth.context_tokens=60", "--set", "synth.tokenizer=simple"]
    made = ["synth", "--recipe", str(RECIPES[0]), "--corpus", "text.txt", "--run", "made", *few]
    assert run([*made, "--dry-run"]) == 0
    assert run(made) == 0
    data = tmp_path / "made" / "synth" / "data"
    bundles, table = list(read_bundles(data)), load_table(data)
    assert len(bundles) == 6
    for bundle in bundles:
        [branch] = bundle.branches
        assert table.text(bundle.plan[branch.gold[0]]).startswith(f"{branch.answer} ")
        assert branch.answer.startswith(f"{branch.question} value")
""",
    "task": """\
def test_the_task_asks_and_scores(loaded):
    from lcx.evaluation.planning import find_task
    from lcx.evaluation.task import Source, options_of
    from lcx.records import Document

    task = find_task("{{name}}:next", loaded)
    document = Document("0", "\\n".join(f"key{n} value{n} and more" for n in range(6)))
    [bundle] = task.samples(Source([document]), options_of(task, {"lines": 4}, {"sets": 1}))
    assert [branch.question for branch in bundle.branches] == ["key0", "key1", "key2", "key3"]
    for branch in bundle.branches:
        [[start, end]] = branch.meta["gold"]
        assert branch.answer in bundle.context[start:end]
        assert task.score({**branch.meta, "pred": branch.answer}) == 1
        assert task.score({**branch.meta, "pred": "no"}) == 0
""",
    "metric": """\
def test_the_metric_scores_from_0_to_1(loaded):
    metric = loaded.metrics.load("{{ident}}_words")
    assert [metric(pred, {"value": "blue"}) for pred in ("blue sky", "sky blue", "")] == [1, 0, 0]
""",
    "loss": """\
def test_the_loss_falls_with_the_gap(loaded):
    import torch

    from lcx.training.losses import Answers, find_loss, loss_options

    loss = find_loss(loaded.losses, "{{name}}")
    answers = Answers(
        sums=torch.tensor([-2.0, -6.0, -40.0, -2.0]),
        lengths=torch.tensor([2.0, 4.0, 2.0, 2.0]),
        bundle=torch.tensor([0, 0, 1, 1]),
        chosen=torch.tensor([True, False, True, False]),
        prompts=2,
    )
    good, bad = loss.compute(answers, **loss_options(loss, {"beta": 1.0})).losses.tolist()
    assert (good, bad) == (0.5, 20.0)  # 1 - (-1 + 1.5), 1 - (-20 + 1)
""",
    "llm": """\
def test_the_text_generator_answers():
    from lcx.llm import open_llm
    from lcx.llm.protocol import Request

    llm = open_llm("{{name}}:any", {"words": 2})
    asked = [Request(({"role": "user", "content": text},)) for text in ("one two three", "four")]
    assert [reply.text for reply in llm.generate(asked)] == ["one two", "four"]
    assert llm.describe()["words"] == 2
    llm.close()
""",
    "retriever": """\
def test_the_retriever_finds():
    from lcx.retrieval import open_retriever

    index = open_retriever("{{name}}").index(["aaa", "bbb", "ccc", "abc"])
    assert index.top(["bb", "ca"], 1) == [[1], [3]]
""",
    "command": """\
def test_the_command_counts(capfd, tmp_path):
    (tmp_path / "text").write_text("one two\\nthree\\n")
    assert run(["{{command}}", "text", "--words"]) == 0
    assert capfd.readouterr().out == "lines 2\\nwords 3\\n"
    assert run(["{{command}}", "none"]) == 2
""",
}
