"""Completion in real shells, through a pseudo-terminal: type, press Tab, look at the screen.

PowerShell is asked by the function that its Tab key calls; it is in no Debian archive, so that most machines skip it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from lcx.cli.completion import SCRIPTS

PROMPT = "READY>"
ESCAPES = re.compile(r"\x1b(\[[0-9;?>=<]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>()][0-9A-Za-z]?|[78])")


class Terminal:
    """A shell that has the completion loaded. `screen` collects what it wrote, without escape sequences."""

    def __init__(self, shell: str, program: str, here: Path) -> None:
        self.shell = shell
        self.rounds = 0
        environment = {
            **os.environ,
            "HOME": str(here),
            "TERM": "dumb",
            "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(here / "config"),
            "XDG_DATA_HOME": str(here / "data"),
            "PS1": PROMPT,
        }
        script = here / f"script.{shell}"
        script.write_text(SCRIPTS[shell])
        started = {
            "bash": ["bash", "--noprofile", "--norc", "-i"],
            "zsh": ["zsh", "-f", "-i"],
            "fish": ["fish", "--no-config", "-i"],
        }[shell]
        self.child = pexpect.spawn(
            started[0],
            started[1:],
            env=environment,
            cwd=str(here / "work"),
            encoding="utf-8",
            dimensions=(50, 160),
        )
        self.child.delaybeforesend = 0.05
        setup = {
            "bash": [f"PS1='{PROMPT}'", "bind 'set bell-style none'", f"source {script}"],
            "zsh": [
                f"PROMPT='{PROMPT}'",
                "unsetopt PROMPT_SP BEEP; setopt NO_ALWAYS_LAST_PROMPT",
                "autoload -Uz compinit; compinit -u -D",
                "zstyle ':completion:*' list-prompt ''",
                f"source {script}",
            ],
            "fish": [f"function fish_prompt; echo -n '{PROMPT}'; end", f"source {script}"],
        }[shell]
        if shell == "fish":
            self.child.expect("[#>] ", timeout=30)
        for line in setup:
            self.child.sendline(line)
        self.settle()

    def settle(self) -> str:
        """Empty the line that is being typed and wait for a fresh one; returns what was written meanwhile.

        The shell computes the word that is waited for, so that its echo on the line is not mistaken for it. Ctrl-C
        would be simpler, but the terminal may throw away what is typed after it.
        """
        self.rounds += 1
        total = f"(math {self.rounds} + 1000)" if self.shell == "fish" else f"$(({self.rounds} + 1000))"
        self.child.send("\x15")
        self.child.sendline(f"echo settled-{total}")
        self.child.expect(f"settled-{self.rounds + 1000}", timeout=60)
        return ESCAPES.sub("", self.child.before)

    def press_tab(self, typed: str, *wanted: str, times: int = 1) -> str:
        """Type, press Tab, and wait until every wanted text has been seen; returns the screen from there
        on.
        """
        self.child.send(typed)
        for _ in range(times):
            self.child.send("\t")
        screen = ""
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(pexpect.TIMEOUT):
                screen += self.child.read_nonblocking(4096, timeout=0.3)
            clean = ESCAPES.sub("", screen)
            if all(word in clean for word in wanted):
                break
            if time.monotonic() > end:
                pytest.fail(f"after {typed!r} and Tab: no {wanted} in {clean!r}")
        self.settle()
        return clean


@pytest.fixture(
    scope="module",
    params=["bash", *(pytest.param(shell, marks=pytest.mark.slow) for shell in ("zsh", "fish"))],
)
def terminal(
    request: pytest.FixtureRequest, lcx_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal]:
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    here = tmp_path_factory.mktemp(shell)
    work = here / "work"
    (work / "folder").mkdir(parents=True)
    (work / "local-recipe.yaml").touch()
    (work / "predictions.jsonl").touch()
    (work / "two words.jsonl").touch()
    terminal = Terminal(shell, lcx_program, here)
    yield terminal
    terminal.child.close(force=True)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("lcx tra", "lcx train "),
        ("lcx recipes val", "lcx recipes validate "),
        ("lcx train --dry", "lcx train --dry-run "),
        ("lcx train --recipe in2-ti", "lcx train --recipe in2-tiny "),
        ("lcx train --recipe=in2-ti", "lcx train --recipe=in2-tiny"),
        ("lcx train --recipe loc", "lcx train --recipe local-recipe.yaml "),
        ("lcx train --run fol", "lcx train --run folder/"),
        ("lcx eval --task val:doc", "lcx eval --task val:document "),
        ("lcx eval --task=val:doc", "lcx eval --task=val:document"),
        ("lcx eval --predictions pre", "lcx eval --predictions predictions.jsonl "),
        ("lcx eval --predictions two", "lcx eval --predictions two\\ words.jsonl "),
        ("lcx train --recipe in2 --set train.weight", "lcx train --recipe in2 --set train.weight_decay="),
        ("lcx completion show f", "lcx completion show fish "),
    ],
)
def test_one_candidate_is_filled_in(typed: str, wanted: str, terminal: Terminal) -> None:
    terminal.press_tab(typed, wanted)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("lcx ", ("synth", "train", "eval", "recipes", "completion")),
        ("lcx train --recipe in2", ("in2-qlora", "in2-tiny")),
        ("lcx eval --task val:", ("code", "database", "document")),
    ],
)
def test_several_are_listed(typed: str, wanted: tuple[str, ...], terminal: Terminal) -> None:
    if terminal.shell == "fish":  # its pager needs a better terminal than ours; this asks for the same list
        terminal.child.sendline(f"complete -C '{typed}'")
        screen = terminal.settle()
        assert all(word in screen for word in wanted)
    else:
        terminal.press_tab(typed, *wanted, times=2 if terminal.shell == "bash" else 1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pwsh") is None, reason="PowerShell (pwsh) is not installed")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("lcx tra", ["train"]),
        ("lcx train --recipe in2-ti", ["in2-tiny"]),
        ("lcx train --recipe=in2-ti", ["--recipe=in2-tiny"]),
        ("lcx eval --task val:doc", ["val:document"]),
        ("lcx eval --predictions two", ["'two words.jsonl'"]),
        ("lcx eval --predictions 'two w", ["'two words.jsonl'"]),
        ("lcx completion show ", ["bash", "zsh", "fish", "powershell"]),
    ],
)
def test_powershell(typed: str, wanted: list[str], lcx_program: str, tmp_path: Path) -> None:
    (tmp_path / "two words.jsonl").touch()
    (tmp_path / "lcx.ps1").write_text(SCRIPTS["powershell"])
    line = typed.replace("'", "''")
    asked = f". ./lcx.ps1; (TabExpansion2 '{line}' {len(typed)}).CompletionMatches.CompletionText"
    done = subprocess.run(
        ["pwsh", "-NoProfile", "-NonInteractive", "-Command", asked],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(lcx_program).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split("\n")[:-1] == wanted, done.stderr
