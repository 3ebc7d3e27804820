"""Help, versions, and what is imported for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Set

import pytest

from lcx import __version__
from lcx.cli.app import COMMANDS, load_command
from tests.conftest import Ran

HEAVY = {"torch", "transformers", "datasets", "trl", "pyarrow", "openai", "matplotlib", "peft", "accelerate"}
PATHS = [
    [name, *sub]
    for name in COMMANDS
    for sub in ([], *([inner] for inner in getattr(load_command(name), "commands", {})))
]


LIGHTEST = {
    "recipes list": {"numpy", "asyncio", "rich"},
    "plugins list": {"numpy", "asyncio", "rich"},
    "train --recipe in2-tiny --dry-run": {"numpy", "asyncio"},
}
"""Command lines that have to be there at once, and what they do without besides."""


def heavy_after(*argv: str, more: Set[str] = frozenset(), **environment: str) -> set[str]:
    """The heavy libraries, and those of `more`, that a command line has imported by its end."""
    code = (
        "import sys, json, os\n"
        "sys.argv = ['lcx', *json.loads(os.environ['ARGV'])]\n"
        "from lcx.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "finally:\n    print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "ARGV": json.dumps(argv), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (HEAVY | more) & set(json.loads(done.stdout.strip().split("\n")[-1]))


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "train --help",
        "recipes list",
        "recipes show in2-tiny --origin",
        "recipes validate",
        "plugins list",
        "completion show bash",
        "synth --recipe in2-tiny --dry-run",
        "train --recipe in2-tiny --dry-run",
        "eval --recipe in2-tiny --dry-run --json",
        "run --recipe in2 --dry-run",
        "run --recipe in2 --llm openai:some --judge openai:other --base-url localhost:1 --dry-run",
        "score --recipe logo --judge openai:some --max-cost 3 --dry-run",
        "presets list",
        "train --recipe in2-tiny --gpus 2 --strategy fsdp --device cpu --dry-run",
    ],
)
def test_light_commands_import_nothing_heavy(line: str) -> None:
    assert heavy_after(*line.split(), more=LIGHTEST.get(line, frozenset())) == set()


def test_completion_imports_nothing_heavy() -> None:
    assert heavy_after(_LCX_COMPLETE="bash", _LCX_LINE="lcx train --recipe ") == set()


def test_help_lists_every_command_with_one_line(cli: Callable[..., Ran]) -> None:
    ran = cli("--help")
    assert ran.code == 0
    for name, text in COMMANDS.items():
        assert f"  {name} " in ran.out
        assert text in ran.out, "the one-line help is cut"
    assert cli().out == ran.out


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_help_and_examples(path: list[str], cli: Callable[..., Ran]) -> None:
    ran = cli(*path, "-h")
    assert ran.code == 0
    assert "Examples:" in ran.out
    assert ran.out.count(f"lcx {path[0]}") >= 2
    assert cli(*path, "--help").out == ran.out


def test_stubs_and_commands_agree() -> None:
    for name in COMMANDS:
        assert load_command(name).name == name


def test_version(cli: Callable[..., Ran]) -> None:
    ran = cli("--version")
    assert (ran.code, ran.out) == (0, f"lcx {__version__}\n")


def test_module_and_script_are_one(shell_lcx: Callable[..., Ran]) -> None:
    as_module = subprocess.run(
        [sys.executable, "-m", "lcx", "--help"], capture_output=True, text=True, check=True
    )
    assert as_module.stdout == shell_lcx("--help").out
