"""What completion answers, without a shell around it; the generated files; the cache of names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lcx.cli import answer as names
from lcx.cli import completion as scripts
from lcx.cli.answer import break_prefix, candidates, split_line
from lcx.cli.completion import rendered
from lcx.errors import UsageError
from tests.conftest import Ran

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(rendered()))
def test_generated_files_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == rendered()[name], "run: python -m lcx.cli.completion"


@pytest.mark.parametrize("shell", scripts.SCRIPTS)
def test_show_prints_the_script(shell: str, cli: Callable[..., Ran]) -> None:
    assert cli("completion", "show", shell).out == (ROOT / "completions" / scripts.FILES[shell]).read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lcx tr", ["lcx", "tr"]),
        ("lcx train ", ["lcx", "train", ""]),
        ("lcx --set 'a b' \"c d", ["lcx", "--set", "a b", "c d"]),
        ("lcx a\\ b", ["lcx", "a b"]),
        ('lcx "a\\"b" x', ["lcx", 'a"b', "x"]),
        ("LCX_RUNS=x A=1 lcx tr", ["lcx", "tr"]),
        ("lcx --task val:d", ["lcx", "--task", "val:d"]),
        ("lcx ''", ["lcx", ""]),
        ("", [""]),
    ],
)
def test_split_line(line: str, words: list[str]) -> None:
    assert split_line(line) == words


def test_break_prefix() -> None:
    assert break_prefix("val:d", " :=") == "val:"
    assert break_prefix("--task=val:d", " :=") == "--task=val:"
    assert break_prefix("--task=val:d", " =") == "--task="
    assert break_prefix("val:d", " ") == ""


MINE = """
extends: logo
steps:
- {id: train, batch: 8}
- {id: extra, stage: eval, method: in2}
"""


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The candidates for a line, typed in a folder that has some files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "data.jsonl").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deep.yaml").write_text(MINE)
    monkeypatch.setattr(names, "_read", {})
    return lambda line: [c.text for c in candidates(split_line(line)[1:])]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lcx tr", ["train"]),
        ("lcx recipes ", ["list", "show", "schema", "copy", "validate"]),
        ("lcx recipes v", ["validate"]),
        ("lcx --ver", ["--version", "--verbose"]),
        ("lcx -q tr", ["train"]),
        ("lcx train --dr", ["--dry-run"]),
        ("lcx train --dry-run --dr", []),
        ("lcx train --set a=1 --se", ["--set", "--seed"]),
        ("lcx train --recipe in2-t", ["in2-tiny"]),
        ("lcx train -r in2-t", ["in2-tiny"]),
        ("lcx train --recipe=in2-t", ["--recipe=in2-tiny"]),
        ("lcx train --recipe mi", ["mine.yaml"]),
        ("lcx train --recipe su", ["sub/"]),
        ("lcx train --recipe sub/", ["sub/deep.yaml"]),
        ("lcx train --recipe da", []),
        ("lcx train --run ", ["sub/"]),
        ("lcx train --recipe in2 --step ", ["synth", "score", "train", "eval"]),
        ("lcx run --recipe in2 --from t", ["train"]),
        ("lcx train --recipe in2 --set t", ["train."]),
        ("lcx train --recipe in2 --set train.learn", ["train.learning_rate="]),
        (
            "lcx train --recipe in2 --set train.tuning=",
            [f"train.tuning={one}" for one in ("full", "lora", "qlora")],
        ),
        ("lcx train --recipe in2 --set train.bf", []),
        ("lcx eval --recipe in2 --set eval.opt", ["eval.options=", "eval.options."]),
        ("lcx train --recipe in2 --set train.opt", ["train.optimizer="]),
        ("lcx eval --recipe in2 --set eval.options.stal", ["eval.options.stale."]),
        ("lcx eval --task x --set eval.options.stale.sta", ["eval.options.stale.stamp="]),
        ("lcx eval --set eval.options.ruler:multikey.k", []),
        ("lcx eval --recipe in2 --set eval.options.ruler:multikey.k", ["eval.options.ruler:multikey.keys="]),
        (
            "lcx eval --recipe in2 --set eval.options.stale.stamp=",
            [f"eval.options.stale.stamp={one}" for one in ("revision", "date")],
        ),
        (
            "lcx score --recipe longreward --set score.retriever=",
            [f"score.retriever={one}" for one in ("bm25", "openai", "sentence-transformers")],
        ),
        ("lcx eval --recipe in2 --set eval.against=b", ["eval.against=builtin"]),
        (
            "lcx train --recipe in2 --set train.gradient_checkpointing=f",
            ["train.gradient_checkpointing=false"],
        ),
        (
            "lcx train --recipe in2 --set train.model=ti",
            [f"train.model={one}" for one in ("tiny", "tiny16", "tiny8")],
        ),
        ("lcx train --recipe logo --set train.loss=d", ["train.loss=dpo"]),
        ("lcx eval --task needle --set eval.tasks=val:c", ["eval.tasks=val:code"]),
        ("lcx eval --recipe sub/deep.yaml --step e", ["eval", "extra"]),
        ("lcx run --recipe sub/deep.yaml --set extra.tasks=need", ["extra.tasks=needle"]),
        ("lcx train --recipe sub/deep.yaml --set train.loss_o", ["train.loss_options="]),
        ("lcx train --recipe mine.yaml --set tr", []),
        ("lcx recipes show in2 train.lora_r", ["train.lora_r"]),
        ("lcx train --recipe in2 --input st", ["step:synth", "step:score"]),
        ("lcx eval --recipe in2 --model st", ["step:train"]),
        ("lcx eval --recipe in2 --model ti", ["tiny", "tiny16", "tiny8"]),
        ("lcx synth --corpus st", ["stdlib", "stdlib:records", "stdlib:stale"]),
        ("lcx synth --llm b", ["builtin"]),
        ("lcx score --judge op", ["openai:"]),
        ("lcx synth --max-", ["--max-calls", "--max-tokens", "--max-cost"]),
        ("lcx run --base", ["--base-url"]),
        ("lcx synth --llm local:su", ["local:sub/"]),
        ("lcx train --device c", ["cpu", "cuda"]),
        ("lcx train --strategy z", ["zero2", "zero3"]),
        ("lcx train --strategy m", ["mine.yaml"]),
        ("lcx train --offload ", ["cpu"]),
        ("lcx presets show fsdp", ["fsdp", "fsdp-qlora"]),
        ("lcx eval --task val:", ["val:code", "val:database", "val:document"]),
        ("lcx eval --task needle,st", ["needle,stale"]),
        ("lcx eval --task lm", ["lm-eval:"]),
        ("lcx eval --task needle --set eval.leng", ["eval.lengths="]),
        ("lcx compare su", ["sub/"]),
        ("lcx eval --predictions da", ["data.jsonl"]),
        ("lcx eval --compat ", ["film", "longbench", "longreward"]),
        ("lcx completion show ", ["bash", "zsh", "fish", "powershell"]),
        ("lcx completion show bash ", []),
        ("lcx plugins check in", ["in2"]),
        ("lcx recipes validate in2 m", ["mine.yaml"]),
        ("lcx nothing ", []),
        ("lcx train --recipe .h", []),
        ("lcx demo --out s", ["sub/"]),
        ("lcx recipes copy in2 ", ["data.jsonl", "mine.yaml", "sub/"]),
    ],
)
def test_candidates(line: str, expected: list[str], complete: Callable[[str], list[str]]) -> None:
    assert complete(line) == expected


def test_keys_are_offered_with_what_they_are(complete: Callable[[str], list[str]]) -> None:
    found = candidates(split_line("lcx train --recipe in2 --set train.tun")[1:])
    assert [(one.text, one.help) for one in found] == [("train.tuning=", "which weights are trained")]


def test_an_empty_word_offers_the_options(complete: Callable[[str], list[str]]) -> None:
    assert "--recipe" in complete("lcx train ")
    assert "--help" in complete("lcx train -")


# -- the cache


def answer(shell_lcx: Callable[..., Ran], line: str, **environment: str) -> list[str]:
    ran = shell_lcx(_LCX_COMPLETE="bash", _LCX_LINE=line, _LCX_BREAKS=" :=", **environment)
    assert ran.err == ""
    assert ran.code == 0
    return ran.out.split("\n")[1:-1]


def test_names_come_from_a_cache(shell_lcx: Callable[..., Ran], tmp_path: Path) -> None:
    place = {"LCX_CACHE": str(tmp_path)}
    line = "lcx eval --task val:d"
    assert answer(shell_lcx, line, **place) == ["database", "document"]
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace("val:document", "val:dormouse"))
    assert answer(shell_lcx, line, **place) == ["database", "dormouse"]
    file.write_text("{ damaged")
    assert answer(shell_lcx, line, **place) == ["database", "document"]


def test_a_stale_cache_is_rebuilt(shell_lcx: Callable[..., Ran], tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    place = {"LCX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(site)}
    line = "lcx train --recipe hay"
    assert answer(shell_lcx, line, cwd=tmp_path, **place) == []
    recipes = site / "recipes"
    recipes.mkdir()
    (recipes / "hay.yaml").write_text("extends: in2\nsummary: found\n")
    (site / "hay_plugin.py").write_text(
        "from pathlib import Path\nfrom lcx import hookimpl\n"
        "@hookimpl\ndef lcx_register_recipes(register):\n    register(Path(__file__).with_name('recipes'))\n"
    )
    info = site / "hay-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hay\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lcx]\nhay = hay_plugin\n")
    assert answer(shell_lcx, line, cwd=tmp_path, **place) == ["hay"]
    assert answer(shell_lcx, line, cwd=tmp_path, LCX_PLUGINS="in2", **place) == []
    (recipes / "hay-two.yaml").write_text("extends: hay\n")
    assert answer(shell_lcx, line, cwd=tmp_path, **place) == ["hay", "hay-two"]


def test_no_cache_folder_is_no_obstacle(shell_lcx: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked = str(tmp_path / "file")
    assert answer(shell_lcx, "lcx train --recipe in2-t", LCX_CACHE=blocked, cwd=tmp_path) == ["in2-tiny"]


def test_garbage_in_is_silence_out(shell_lcx: Callable[..., Ran]) -> None:
    for environment in ({"_LCX_COMPLETE": "tcsh"}, {"_LCX_COMPLETE": "bash"}, {"_LCX_COMPLETE": "zsh"}):
        assert shell_lcx(**environment).err == ""


# -- installing


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/lcx"),
        ("zsh", ".zfunc/_lcx"),
        ("fish", ".config/fish/completions/lcx.fish"),
        ("powershell", ".config/powershell/lcx.ps1"),
    ],
)
def test_install_writes_once(shell: str, place: str, shell_lcx: Callable[..., Ran], tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "BASH_COMPLETION_USER_DIR": ""}
    first = shell_lcx("completion", "install", shell, **home)
    assert first.code == 0, first.err
    assert f"wrote {tmp_path / place}" in first.out
    assert (tmp_path / place).read_text() == scripts.SCRIPTS[shell]
    assert "is up to date" in shell_lcx("completion", "install", shell, **home).out


def test_powershell_is_found_by_its_program_and_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHELL", raising=False)
    monkeypatch.setattr(scripts, "_parent", lambda: "pwsh")
    assert scripts.detect() == "powershell"
    monkeypatch.setattr(scripts, "_parent", lambda: "cmd.exe")
    monkeypatch.delenv("PSModulePath", raising=False)
    with pytest.raises(UsageError, match="cannot tell"):
        scripts.detect()
    monkeypatch.setenv("PSModulePath", "C:\\modules")
    assert scripts.detect() == "powershell"
    monkeypatch.setattr(scripts, "_parent", lambda: "zsh")  # a shell that was started from PowerShell
    assert scripts.detect() == "zsh"


def test_powershell_is_told_words_with_spaces(shell_lcx: Callable[..., Ran], tmp_path: Path) -> None:
    asked = {"_LCX_COMPLETE": "powershell", "_LCX_WORDS": "lcx\ncompletion\nshow", "_LCX_WORD": "power"}
    assert shell_lcx(**asked).out.splitlines() == ["powershell"]
    said = scripts.activation("powershell", tmp_path / "it's" / "lcx.ps1")
    assert said[-1].endswith("it''s/lcx.ps1'")


def test_install_finds_the_shell(lcx_program: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/false"}
    for name in ("XDG_DATA_HOME", "BASH_COMPLETION_USER_DIR"):
        environment.pop(name, None)
    command = ["bash", "-c", f"{lcx_program} completion install; true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "bash-completion/completions/lcx" in done.stdout
