"""`lcx plugins`, and a tool that works whatever its plugins do."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcx import hookimpl, plugins
from tests.conftest import Ran
from tests.toy import TOY_RECIPE, Toy


class Claimer(Toy):
    """A toy that also claims a recipe."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @hookimpl
    def lcx_register_recipes(self, register: Callable[..., None]) -> None:
        register(self.folder)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these the installed plugins besides the real ones; an exception is raised on loading."""
    real = list(importlib.metadata.entry_points(group="lcx"))

    class Point(types.SimpleNamespace):
        def load(self) -> Any:
            if isinstance(self.found, BaseException):
                raise self.found
            return self.found

    def call(**found: Any) -> None:
        dist = types.SimpleNamespace(name="somebodys", version="9")
        points = [
            Point(name=name, value=f"module_{name}", dist=dist, found=what) for name, what in found.items()
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*real, *points])
        loaded = plugins.load()
        monkeypatch.setattr(plugins, "loaded", lambda: loaded)

    return call


def put(folder: Path, name: str, text: str, version: str = "1.0", **files: str) -> None:
    """Put a plugin into a folder of `sys.path` as pip would: a package `lcx_NAME` and what says that it is there."""
    package, info = folder / f"lcx_{name}", folder / f"lcx_{name}-{version}.dist-info"
    for place in (package, info):
        place.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    for file, body in files.items():
        (package / file.replace("_yaml", ".yaml").replace("_py", ".py")).write_text(body)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lcx-{name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[lcx]\n{name} = lcx_{name}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of `sys.path` for `put`; call `plugins.load()` anew to have what is in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    plugins._loaded.cache_clear()
    yield folder
    plugins._loaded.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("lcx_"):
            del sys.modules[name]


HEAD = "from pathlib import Path\nfrom lcx import hookimpl\n"
BROKEN = {  # name -> its module, its other files, and the kind, hook, words and mending that check says
    "imports": ("import not_there_xyz\n", {}, "import", "", "No module named", "pip install not_there_xyz"),
    "syntax": ("x = 1\ndef f(:\n", {}, "syntax", "", "no valid Python", "mend this line: def f(:"),
    "raises": ("raise RuntimeError('at import')\n", {}, "import", "", "at import", "mend /"),
    "skips": (
        "class Skipped(BaseException): ...\nraise Skipped('as pytest.skip does')\n",
        {},
        "import",
        "",
        "Skipped: as pytest.skip does",
        "mend /",
    ),
    "leaves": ("import sys\nsys.exit(3)\n", {}, "import", "", "SystemExit: 3", "mend /"),
    "called": (
        f"{HEAD}@hookimpl\ndef lcx_register_recipes(register):\n    register(Path(__file__).parent)\n",
        {"other_yaml": "name: in2\nmethod: sft\nsteps:\n- {stage: train, input: x}\n"},
        "recipe",
        "lcx_register_recipes",
        "other.yaml is found as 'other' and calls itself 'in2'",
        "name: other; or call the file in2.yaml",
    ),
    "signature": (
        f"{HEAD}@hookimpl\ndef lcx_train(step, runs, ctx): ...\n",
        {},
        "signature",
        "lcx_train",
        "takes (step, runs, ctx)",
        "def lcx_train(step, run, ctx):",
    ),
    "nowhere": (
        f'{HEAD}@hookimpl\ndef lcx_register_metrics(register):\n    register("m", "lcx_nowhere.metrics:scor")\n',
        {"metrics_py": "def score(pred, row): ...\n"},
        "target",
        "lcx_register_metrics",
        "has no 'scor'",
        "Did you mean 'score'?",
    ),
    "nomodule": (
        f'{HEAD}@hookimpl\ndef lcx_register_llms(register):\n    register("mine", "lcx_nomodule.wirter:f")\n',
        {"writer_py": ""},
        "target",
        "lcx_register_llms",
        "no module 'lcx_nomodule.wirter'",
        "Did you mean 'writer'?",
    ),
    "takes": (
        f'{HEAD}@hookimpl\ndef lcx_register_metrics(register):\n    register("t", "lcx_takes.m:score")\n',
        {"m_py": "def score(row): ...\n"},
        "signature",
        "lcx_register_metrics",
        "score takes (row)",
        "def score(pred, row):",
    ),
    "recipe": (
        f"{HEAD}@hookimpl\ndef lcx_register_recipes(register):\n    register(Path(__file__).parent)\n",
        {"wrong_yaml": "name: wrong\nmethod: sft\nsteps:\n- {stage: train, bacth: 3}\n"},
        "recipe",
        "lcx_register_recipes",
        "Did you mean 'batch'?",
        "",
    ),
    "folder": (
        f"{HEAD}@hookimpl\ndef lcx_register_recipes(register):\n    register(Path(__file__).with_name('no'))\n",
        {},
        "recipes",
        "lcx_register_recipes",
        "there is no folder",
        "package-data",
    ),
    "misspelt": (
        f"{HEAD}@hookimpl\ndef lcx_register_metric(register): ...\n",
        {},
        "misspelt hook",
        "lcx_register_metric",
        "Did you mean 'lcx_register_metrics'?",
        "def lcx_register_metrics(register):",
    ),
    "tasks": (
        f"{HEAD}def lcx_register_tasks(register): ...\n",
        {},
        "misspelt hook",
        "lcx_register_tasks",
        "Did you mean 'lcx_register_probes'?",
        "def lcx_register_probes(register):",
    ),
    "unmarked": (
        "def lcx_train(step, run, ctx): ...\n",
        {},
        "unmarked hook",
        "lcx_train",
        "no @hookimpl",
        "write `@hookimpl` above `def lcx_train`",
    ),
    "clash": (
        f"{HEAD}from lcx.steps import EVAL, Method\n"
        '@hookimpl\ndef lcx_register_methods(register):\n    register(Method("logo", "x", {"eval": EVAL}))\n'
        "@hookimpl\ndef lcx_register_recipes(register):\n    register(Path(__file__).parent)\n"
        '@hookimpl\ndef lcx_register_commands(register):\n    register("train", "lcx_clash.l:main", help="x")\n',
        {
            "l_py": "def main(): ...\n",
            "in2_yaml": "name: in2\nmethod: sft\nsteps:\n- {stage: train, input: x}\n",
        },
        "clash",
        "lcx_register_methods",
        "lcx's own is used",
        "give it a name of its own",
    ),
    "registers": (
        f"{HEAD}@hookimpl\ndef lcx_register_methods(register):\n    register(7)\n",
        {},
        "registering",
        "lcx_register_methods",
        "register takes a Method of lcx.steps, not 7",
        "register(Method(",
    ),
    "returns": (
        f"{HEAD}@hookimpl\ndef lcx_register_llms(register):\n    return {{'a': 'b:c'}}\n",
        {},
        "registering",
        "lcx_register_llms",
        "it returns a dict",
        'register("name", "module:factory")',
    ),
    "wraps": (
        f"{HEAD}@hookimpl\ndef lcx_eval(step, run, ctx):\n    result = yield\n    return result\n",
        {},
        "signature",
        "lcx_eval",
        "not marked as a wrapper",
        "@hookimpl(wrapper=True)",
    ),
    "api": (
        f"{HEAD}HOOK_API = '2'\n@hookimpl\ndef lcx_eval(step): ...\n",
        {},
        "api",
        "",
        "'2'",
        "HOOK_API = ",
    ),
}
LIGHT = ["--help", "recipes list", "recipes show in2", "plugins list", "completion show bash", "train -h"]


def test_list_and_check(cli: Callable[..., Ran]) -> None:
    rows = {row["name"]: row for row in cli("plugins", "list", "--json").json["plugins"]}
    assert rows["in2"]["state"] == "loaded"
    assert rows["in2"]["package"] == "lcx"
    assert rows["in2"]["provides"]["methods"] == ["in2"]
    assert "lcx_register_methods" in rows["in2"]["hooks"]
    assert "in2" in cli("plugins", "list").out
    ran = cli("plugins", "check", "in2")
    assert ran.code == 0
    assert "lcx_register_methods" in ran.out


def test_a_failed_plugin_is_shown_and_breaks_nothing(
    cli: Callable[..., Ran], install: Callable[..., None]
) -> None:
    install(bad=RuntimeError("on purpose"))
    ran = cli("plugins", "list", "--json")
    assert ran.code == 0
    row = next(row for row in ran.json["plugins"] if row["name"] == "bad")
    assert (row["state"], row["error"], row["version"]) == ("failed", "RuntimeError: on purpose", "9")
    ran = cli("plugins", "check")
    assert ran.code == 3
    assert "Traceback" in ran.out
    assert "on purpose" in ran.out
    assert cli("plugins", "check", "in2").code == 0
    for line in LIGHT:
        assert cli(*line.split()).code == 0, line


def test_a_recipe_that_needs_the_failed_plugin_says_so(
    cli: Callable[..., Ran], install: Callable[..., None], tmp_path: Path
) -> None:
    install(bad=RuntimeError("on purpose"))
    (tmp_path / "r.yaml").write_text(TOY_RECIPE)
    ran = cli("train", "--recipe", str(tmp_path / "r.yaml"))
    assert ran.code == 3
    assert "no plugin provides the method 'toy'" in ran.err
    assert "on purpose" in ran.err


def test_clashes_name_both_and_break_nothing_else(
    cli: Callable[..., Ran], install: Callable[..., None], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.yaml").write_text(TOY_RECIPE)
    install(first=Claimer(tmp_path / "one"), second=Claimer(tmp_path / "two"))
    ran = cli("plugins", "check", "--json")
    assert ran.code == 3
    found = {(clash["kind"], clash["name"]): clash["owners"] for clash in ran.json["clashes"]}
    assert found == {("method", "toy"): ["first", "second"], ("recipe", "same"): ["first", "second"]}
    assert "claimed by first and second" in cli("plugins", "list").out
    ran = cli("train", "--recipe", "same")
    assert ran.code == 3
    assert "'first'" in ran.err
    assert "'second'" in ran.err
    ran = cli("train", "--recipe", str(tmp_path / "one" / "same.yaml"))
    assert ran.code == 3
    assert "two plugins claim the method 'toy': 'first' and 'second'" in ran.err
    for line in LIGHT:
        assert cli(*line.split()).code == 0, line
    assert "claimed twice" in cli("recipes", "list").out


def test_each_kind_of_broken_plugin_is_named_with_what_mends_it(site: Path, cli: Callable[..., Ran]) -> None:
    for name, (text, files, *_) in BROKEN.items():
        put(site, name, text, **files)
    put(
        site,
        "newer",
        f"{HEAD}HOOK_API = 99\n@hookimpl\ndef lcx_publish(run): ...\n@hookimpl\ndef lcx_train(step): ...\n",
    )
    put(site, "later", f"{HEAD}@hookimpl\ndef lcx_publish(run): ...\n@hookimpl\ndef lcx_train(step): ...\n")
    ran = cli("plugins", "check", "--json")
    assert ran.code == 3
    rows = {row["name"]: row for row in ran.json["plugins"]}
    for name, (_, _, kind, hook, words, mend) in BROKEN.items():
        problems = [one for one in rows[name]["problems"] if one["kind"] == kind and not one["warning"]]
        assert problems, (name, rows[name])
        problem = next((one for one in problems if one["hook"] == hook), None)
        assert problem, (name, problems)
        assert words in problem["what"], (name, problem)
        assert problem["mend"], name
        assert mend in problem["mend"], (name, problem)
        if name not in ("imports", "api"):
            assert f"lcx_{name}" in problem["file"], (name, problem)
    assert {one["hook"] for one in rows["clash"]["problems"]} >= {
        "lcx_register_methods",
        "lcx_register_recipes",
        "lcx_register_commands",
    }
    for name in ("newer", "later"):  # a hook of a later lcx is no reason to do without the plugin
        assert rows[name]["state"] == "loaded"
        assert {one["warning"] for one in rows[name]["problems"]} == {True}
        assert cli("plugins", "check", name).code == 0
    assert "write `@hookimpl` above" in cli("plugins", "check", "unmarked").out
    assert "Did you mean 'syntax'" in cli("plugins", "check", "sytnax").err
    for line in LIGHT:
        assert cli(*line.split()).code == 0, line
    shown = cli("recipes", "show", "in2", "--json").json  # a bundled name stays where it was
    assert "site" not in shown["path"]
    assert shown["method"] == "in2"
    assert plugins.loaded().methods.owner("logo") == "logo"
    assert "preference" in plugins.loaded().method("logo").summary.lower()
    assert "claimed twice" in cli("recipes", "list").out


def test_what_an_import_does_to_every_command_is_a_warning(
    site: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "HEAVY", ("lcx_light", "lcx_heavy.big"))
    body = f"{HEAD}@hookimpl\ndef lcx_eval(step): ...\n"
    put(site, "light", body)
    put(site, "loud", f"print('hello'); print('more')\nimport os\nos.chdir({str(site)!r})\n{body}")
    put(site, "heavy", f"from . import big\n{body}", big_py="")
    ran = cli("plugins", "check", "--json")
    assert ran.code == 0
    assert Path.cwd() == tmp_path
    assert ran.err == "hello\nmore\n"
    said = {
        row["name"]: [one["what"] for one in row["problems"]]
        for row in ran.json["plugins"]
        if row["problems"]
    }
    assert set(said) == {"loud", "heavy", "light"}
    assert said["loud"] == [
        f"importing it goes to another working folder; {tmp_path} is taken again",
        "importing it prints 'hello'",
    ]
    assert said["heavy"][0].endswith("for lcx_heavy.big, and lists of recipes wait for that")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert {one.state for one in plugins.load().entries} == {
        "loaded"
    }  # a shell may stand in a removed folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "HEAVY", ())
    monkeypatch.setattr(plugins, "SLOW", 0.0)
    assert "slow import: importing it takes" in cli("plugins", "check", "in2", "light").out


def test_entry_points_and_packages_that_are_damaged(site: Path, cli: Callable[..., Ran]) -> None:
    body = f"{HEAD}@hookimpl\ndef lcx_eval(step): ...\n"
    put(site, "words", body)
    (site / "lcx_words-1.0.dist-info" / "entry_points.txt").write_text("[lcx]\nwords = lcx words!\n")
    put(site, "lost", body)
    (site / "lcx_lost-1.0.dist-info" / "METADATA").unlink()
    ran = cli("plugins", "check", "words")
    assert ran.code == 3
    assert "its entry point 'lcx words!' names no module" in ran.out
    assert '-> words = "PACKAGE.MODULE" in pyproject.toml' in ran.out
    assert "lost (? ?, lcx_lost): loaded, nothing wrong" in cli("plugins", "check", "lost").out
    ran = cli("plugins", "uninstall", "lost")
    assert ran.code == 2
    assert "LCX_PLUGINS=-lost" in ran.err


def test_a_plugin_with_a_bundled_plugins_name_pushes_nothing_out(site: Path) -> None:
    put(site, "in2", f"{HEAD}@hookimpl\ndef lcx_train(step): ...\n")
    (site / "lcx_in2-1.0.dist-info" / "entry_points.txt").write_text("[lcx]\nin2 = lcx_aaa\n")
    (site / "lcx_in2").rename(site / "lcx_aaa")
    loaded = plugins.load()
    states = {(one.package, one.state) for one in loaded.entries if one.name == "in2"}
    assert states == {("lcx", "loaded"), ("lcx-in2", "failed")}
    assert loaded.method("in2").name == "in2"
    [problem] = next(one for one in loaded.entries if one.package == "lcx-in2").problems
    assert problem.kind == "clash"


def test_lcx_plugins_leaves_one_out_and_names_the_unknown(
    site: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(site, "mine", f"{HEAD}@hookimpl\ndef lcx_train(step): ...\n")
    for value, off, unknown in (
        ("-in2", {"in2"}, ""),
        ("-in2,-mine", {"in2", "mine"}, ""),
        ("in2,mine,-mine", {"mine", "logo", "longreward"}, ""),
        ("-mien", set(), "LCX_PLUGINS names 'mien'"),
        ("mien,mine", {"in2", "logo", "longreward"}, "Did you mean 'mine'?"),
        (",", {"in2", "logo", "longreward", "mine"}, ""),
    ):
        monkeypatch.setenv("LCX_PLUGINS", value)
        ran = cli("plugins", "list", "--json")
        assert {row["name"] for row in ran.json["plugins"] if row["state"] == "off"} == off, value
        assert (unknown in ran.err) if unknown else ("names '" not in ran.err), value
        plugins._loaded.cache_clear()


RUNS = {  # what is wrong when it runs -> the plugin's module, and what the error says of it
    "returns": (
        "@hookimpl(tryfirst=True)\ndef lcx_train(step, run, ctx):\n    return {'loss': 1}\n",
        "returns a dict",
    ),
    "raises": (
        "@hookimpl(tryfirst=True)\ndef lcx_train(step, run, ctx):\n    return 1 / 0\n",
        "ZeroDivisionError",
    ),
    "swallows": ("@hookimpl(wrapper=True)\ndef lcx_train(step, run, ctx):\n    yield\n", "returns nothing"),
    "twice": (
        "@hookimpl(wrapper=True)\ndef lcx_train(step, run, ctx):\n    yield\n    yield\n",
        "second `yield`",
    ),
    "after": (
        "@hookimpl(wrapper=True)\ndef lcx_train(step, run, ctx):\n    result = yield\n    result.nothing()\n",
        "AttributeError",
    ),
}


@pytest.mark.parametrize("how", RUNS)
def test_what_a_hook_does_wrongly_names_plugin_hook_and_file(
    how: str, site: Path, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, words = RUNS[how]
    put(site, how, HEAD + text)
    loaded = plugins.load(extra={"toy": Toy()})
    monkeypatch.setattr(plugins, "loaded", lambda: loaded)
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(TOY_RECIPE)
    ran = cli("run", "--recipe", "./r.yaml")
    assert ran.code in (1, 3), ran.err
    for said in (words, f"plugin '{how}'", "lcx_train", str(site / f"lcx_{how}" / "__init__.py")):
        assert said in ran.err, ran.err


def test_a_bug_in_a_stage_or_in_lcx_behind_a_wrapper_is_whose_it_is(
    site: Path, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = "@hookimpl(wrapper=True)\ndef lcx_synth(step, run, ctx):\n    return (yield)\n"
    put(site, "around", HEAD + around)
    method = (
        "from lcx.steps import Method, Stage\nfrom lcx.settings import Settings\n"
        "@hookimpl\ndef lcx_register_methods(register):\n"
        '    register(Method("m", "x", {"synth": Stage(Settings, "lcx_m.m:synth", "lcx_m.m:forecast"), '
        '"score": Stage(Settings, "lcx_m.m:score"), "eval": Stage(Settings, "lcx_m.m:gone")}))\n'
    )
    code = "def synth(work):\n    return {}['x']\ndef score(work):\n    return 3\ndef forecast(work):\n    return 7\n"
    put(site, "m", HEAD + method, m_py=code)
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("method: m\nsteps:\n- {stage: synth}\n- {stage: score}\n- {stage: eval}\n")
    file = str(site / "lcx_m" / "m.py")
    ran = cli("synth", "--recipe", "./r.yaml")
    assert ran.code == 1
    assert f"plugin 'm' (lcx_register_methods, {file}, line 2)" in ran.err
    ran = cli("score", "--recipe", "./r.yaml")
    assert ran.code == 3
    assert "lcx_m.m:score returns a int" in ran.err
    assert file in ran.err
    ran = cli("eval", "--recipe", "./r.yaml")
    assert ran.code == 3
    assert "'eval' of the method 'm' of 'm' cannot be imported: lcx_m.m:gone" in ran.err
    assert "lcx_m.m:forecast returns a int" in cli("synth", "--recipe", "./r.yaml", "--dry-run").err
    from lcx import steps

    monkeypatch.setattr(steps, "run_stage", lambda *_: 1 / 0)
    ran = cli("synth", "--recipe", "./r.yaml", "--run", "other")
    assert ran.code == 1  # lcx's own bug: the wrapper around it has no part in it
    assert "bug in lcx or in a plugin" in ran.err


def test_who_ran_is_traced_in_a_line_each(
    site: Path, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(
        site, "around", HEAD + "@hookimpl(wrapper=True)\ndef lcx_synth(step, run, ctx):\n    return (yield)\n"
    )
    monkeypatch.setenv("LCX_TRACE_HOOKS", "1")
    monkeypatch.chdir(tmp_path)
    loaded = plugins.load(extra={"toy": Toy()})
    monkeypatch.setattr(plugins, "loaded", lambda: loaded)
    Path("r.yaml").write_text(TOY_RECIPE)
    ran = cli("synth", "--recipe", "./r.yaml")
    lines = [line.rpartition(",")[0] for line in ran.err.splitlines() if line.startswith("hook lcx_synth")]
    assert lines == ["hook lcx_synth: toy answered", "hook lcx_synth: around went around it"]
    called = cli("plugins", "list", "--hooks", "--json").json["hooks"]
    assert [(one["plugin"], one["how"]) for one in called["lcx_synth"]] == [
        ("around", "wrapper"),
        ("toy", ""),
        ("lcx-core", "trylast"),
    ]
    assert "around (wrapper), toy, lcx-core (trylast)" in cli("plugins", "list", "--hooks").out


COMMANDS = (
    f"{HEAD}@hookimpl\ndef lcx_register_commands(register):\n"
    '    register("count", "lcx_cmd.cmd:count", help="Count the words of a file.")\n'
    '    register("many", "lcx_cmd.cmd:app", help="Two commands.")\n'
    '    register("train", "lcx_cmd.cmd:count", help="Not ours.")\n'
    '    register("gone", "lcx_cmd.cmd:gone", help="Not there.")\n'
    '    register("odd", "lcx_cmd.cmd:odd", help="Not annotated.")\n'
)
CODE = """
import typer
app = typer.Typer()
print("imported")
@app.command()
def one(): print(1)
@app.command()
def two(): print(2)
def count(file: str = typer.Argument(metavar="FILE"), words: bool = typer.Option(False, "--words", help="W.")):
    'Count a file.'
    print(file, words)
    return 1 / int(file != "zero")
odd = 3
"""


def test_plugins_bring_commands(site: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from lcx.cli import answer, names

    put(site, "cmd", COMMANDS, cmd_py=CODE)
    monkeypatch.setenv("LCX_CACHE", str(site.parent / "cache"))
    monkeypatch.setattr(names, "_commands", {})
    ran = cli("--help")
    assert "Count the words of a file." in ran.out
    assert "Not ours" not in ran.out
    assert "lcx_cmd.cmd" not in sys.modules  # help and the names come without it
    assert [one.text for one in answer.candidates(["cou"])] == ["count"]
    assert [one.help for one in answer.candidates(["tra"])] == [
        "Train a model on the data of an earlier step."
    ]
    assert "lcx_cmd.cmd" not in sys.modules
    assert cli("count", "x", "--words").out.splitlines()[-1] == "x True"
    assert cli("many", "two").out.splitlines()[-1] == "2"
    assert "Count a file." in cli("count", "--help").out
    many = cli("many", "--help").out  # in the form of lcx's own, which completes it
    assert many.startswith("Usage: lcx many")
    assert "completion" not in many
    assert "no such option '--wrods'. Did you mean '--words'?" in cli("count", "--wrods", "x").err
    assert cli("trian").code == 2
    ran = cli("count", "zero")
    assert ran.code == 1
    assert "bug in plugin 'cmd' (lcx_register_commands" in ran.err
    assert cli("gone").code == 3
    assert "lcx_cmd.cmd:gone" in cli("gone").err
    assert cli("odd").code == 3
    assert cli("train", "--help").out.startswith(cli("-q", "train", "-h").out[:20])
    for _ in range(2):  # from its module, then from the cache
        monkeypatch.setattr(names, "_commands", {})
        assert [one.text for one in answer.candidates(["count", "--w"])] == ["--words"]
        assert [one.text for one in answer.candidates(["many", ""])] == ["one", "two"]
        monkeypatch.setattr(names, "_find_commands", lambda: pytest.fail("the cache is good"))
    monkeypatch.undo()
    problems = {
        one["what"] for one in cli("plugins", "check", "cmd", "--json").json["plugins"][0]["problems"]
    }
    assert any("'train' is claimed by 'lcx-core' too: lcx's own is used" in one for one in problems)
    assert any("has no 'gone'" in one for one in problems)
    assert any("lcx_cmd.cmd:odd is a int" in one for one in problems)


def test_two_plugins_with_one_command(
    site: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcx.cli import names

    for name in ("one", "two"):
        put(site, name, COMMANDS.replace("lcx_cmd", f"lcx_{name}"), cmd_py=CODE)
    monkeypatch.setenv("LCX_CACHE", str(site.parent / "cache"))
    monkeypatch.setattr(names, "_commands", {})
    assert "(claimed by one and two)" in cli("--help").out
    ran = cli("count", "x")
    assert ran.code == 3
    assert "LCX_PLUGINS=-two" in ran.err


NEW = {"method,task,metric,llm,retriever,command": 12, "none": 6, "task": 7}
"""Parts of a new package, and how many files it has."""


@pytest.mark.parametrize("parts", NEW)
def test_a_new_package_is_whole_and_right(
    parts: str, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tomllib

    monkeypatch.chdir(tmp_path)
    name = f"new-{parts[:4].strip(',')}"
    ident = name.replace("-", "_")
    ran = cli("plugins", "new", name, "--with", parts, "--to", "made")
    assert ran.code == 0, ran.err
    assert "next: lcx plugins install -e ./made" in ran.out
    files = [path for path in Path("made").rglob("*") if path.is_file()]
    assert len(files) == NEW[parts] + 1
    assert not any("{{" in path.read_text().replace("${{", "") for path in files)
    for path in files:
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
            assert max(map(len, path.read_text().splitlines())) <= 120, path
    project = tomllib.loads(Path("made/pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lcx"] == {name: f"lcx_{ident}"}
    (info := Path(f"made/lcx_{ident}-0.1.0.dist-info")).mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lcx-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[lcx]\n{name} = lcx_{ident}\n")
    monkeypatch.syspath_prepend("made")
    plugins._loaded.cache_clear()
    ran = cli("plugins", "check", name)
    plugins._loaded.cache_clear()
    assert ran.code == 0, ran.out
    ran = cli("plugins", "new", name, "--to", "made")
    assert ran.code == 2
    assert "taken" in ran.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("new in2", "'in2' is taken"),
        ("new Mine", "cannot be called 'Mine'"),
        ("new ../mine", "cannot be called"),
        ("new mine --with metod", "Did you mean 'method'?"),
        ("new mine --to .", "is there already"),
        ("uninstall in2", "LCX_PLUGINS=-in2"),
        ("uninstall lcx", "comes with lcx itself"),
        ("uninstall nothing", "no plugin 'nothing' is installed"),
        ("install -- --index-url=http://x", "is an option, not a package"),
    ],
)
def test_what_new_and_pip_refuse(
    line: str, said: str, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").touch()
    ran = cli("plugins", *line.split())
    assert ran.code == 2
    assert said in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_pip_uv_and_pipx(
    site: Path, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from importlib import util

    put(site, "bad", "raise RuntimeError('broken')\n")
    pip = f"{sys.executable} -P -m pip --disable-pip-version-check"
    assert cli("plugins", "install", "-U", "-n", "x y").out == f"{pip} install --upgrade 'x y'\n"
    assert cli("plugins", "uninstall", "bad", "-n").out == f"{pip} uninstall --yes lcx-bad\n"
    assert cli("plugins", "uninstall", "lcx-bad", "-n").out == f"{pip} uninstall --yes lcx-bad\n"
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cli("plugins", "install", "x", "-n").code == 4
    monkeypatch.setattr(shutil, "which", lambda name: name)
    ran = cli("plugins", "install", "-e", "./x", "-n")
    assert ran.out == f"uv pip install --python {sys.executable} -e ./x\n"
    (tmp_path / "lcx").mkdir()
    (tmp_path / "lcx" / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "lcx"))
    assert cli("plugins", "install", "x", "-n").out == "pipx inject lcx x\n"
    assert cli("plugins", "uninstall", "bad", "-n").out == "pipx uninject lcx lcx-bad\n"


def test_what_pip_says_is_shown_but_for_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from lcx.cli import plugins as command
    from lcx.errors import LcxError

    said = "print('Requirement already satisfied: torch'); print('Collecting x'); raise SystemExit(3)"
    monkeypatch.setattr(command, "installer", lambda action: [sys.executable, "-S", "-c", said])
    with pytest.raises(LcxError, match="ended with exit code 3"):
        command._run_installer("install", [], False)
    assert capfd.readouterr().err == "Collecting x\n"


def test_lcx_plugins_empty_leaves_the_core(shell_lcx: Callable[..., Ran]) -> None:
    ran = shell_lcx("plugins", "list", "--json", LCX_PLUGINS="")
    assert {row["state"] for row in ran.json["plugins"]} == {"off"}
    ran = shell_lcx("train", "--recipe", "in2-tiny", LCX_PLUGINS="")
    assert ran.code == 3
    assert "LCX_PLUGINS leaves out: in2" in ran.err
