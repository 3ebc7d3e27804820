"""Every command of the guides runs as it stands, and every hook is in them."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcx import hookspecs, plugins
from lcx.recipe import load

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
TRAINS = {"compare.md", "eval.md", "in2.md", "report.md"}
"""Guides whose commands need the trained tiny model."""
LONG = TRAINS | {"longreward.md", "longreward-eval.md"}
"""Guides with more than a few commands, each a process."""


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(path: Path) -> list[str]:
    lines = [line for body in blocks(path, "console") for line in body.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "console blocks hold commands only"
    return [line.removeprefix("$ ") for line in lines]


CASES = [
    pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in LONG else [])
    for path in GUIDES
    if commands(path)
]


@pytest.mark.parametrize("path", CASES)
def test_every_command_runs(path: Path, tmp_path: Path, lcx_program: str, tiny_model: Any) -> None:
    if path.name in TRAINS:
        tiny_model()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands(path):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_readmes_lcx_commands_parse(cli: Any) -> None:
    """Flags and recipes of the README exist; its paths do not, so only the parse is checked, by --dry-run."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [
        line
        for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        for line in body.splitlines()
    ]
    found = [line for line in lines if line.startswith("lcx ") and "--recipe" in line]
    assert found
    recipe_of: dict[str, str] = {}
    for line in found:
        given = dict(zip(shlex.split(line), shlex.split(line)[1:], strict=False))
        if "--run" in given:  # a run belongs to one recipe
            assert recipe_of.setdefault(given["--run"], given["--recipe"]) == given["--recipe"]
    for line in found:
        words = shlex.split(line, comments=True)[1:]
        ran = cli(*words, *([] if words[0] == "forecast" else ["--dry-run"]))
        assert ran.code == 0, f"{line}\n{ran.err}"


def test_every_hook_and_its_arguments_are_documented() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("lcx_")}
    assert len(hooks) >= 12
    for name, function in hooks.items():
        signature = ", ".join(inspect.signature(function).parameters)
        assert f"`{name}({signature})`" in text, name


def test_the_plugin_guides_code_wraps_training() -> None:
    [code] = [body for body in blocks(ROOT / "docs" / "plugins.md", "python") if "lcx_train" in body]
    module: dict[str, Any] = {}
    exec(compile(code, "plugins.md", "exec"), module)

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


def test_the_recipe_guides_examples_load(tmp_path: Path) -> None:
    guide = ROOT / "docs" / "recipes.md"
    [recipe] = blocks(guide, "yaml")
    [toml] = blocks(guide, "toml")
    path = tmp_path / "mine.yaml"
    path.write_text(recipe)
    loaded = load(str(path), plugins.loaded())
    assert loaded.step("synth").settings["questions_per_context"] == 4
    assert yaml.safe_load(recipe)["extends"] == "in2"
    assert tomllib.loads(toml)["recipes"]["in2"]["synth"] == {"corpus": "my_texts"}


def test_the_plugin_guides_losses_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lcx.training.losses import Answers, find_loss, loss_options

    written = blocks(ROOT / "docs" / "plugins.md", "python")
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
