"""A third party's distribution, installed by pip: listed, completed, run; a broken one beside it.

They are installed into a folder of their own, which only the processes started here have on their path: other tests
run at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Ran

TESTS = Path(__file__).resolve().parents[1]


def pip(*argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def pip_folder() -> str:
    """Where this interpreter's pip lies."""
    import pip

    return os.path.dirname(pip.__file__)


@pytest.fixture(scope="module", autouse=True)
def _installed(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder, sources = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("source")
    # from copies: building leaves folders beside the sources
    copies = [
        str(shutil.copytree(TESTS / name, sources / name)) for name in ("plugin_package", "broken_plugin")
    ]
    pip("install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder), *copies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("LCX_CACHE", str(tmp_path_factory.mktemp("cache")))  # names that completion remembers
        yield


@pytest.fixture
def lcx(shell_lcx: Callable[..., Ran], tmp_path: Path) -> Callable[..., Ran]:
    return lambda line, **environment: shell_lcx(*line.split(), cwd=tmp_path, **environment)


def test_listed(lcx: Callable[..., Ran]) -> None:
    rows = {row["name"]: row for row in lcx("recipes list --json").json["recipes"]}
    assert rows["haystack-tiny"]["owner"] == "haystack"
    assert [step["id"] for step in rows["haystack-tiny"]["steps"]] == ["synth", "score", "train", "eval"]
    plugin = next(row for row in lcx("plugins list --json").json["plugins"] if row["name"] == "haystack")
    assert (plugin["package"], plugin["version"], plugin["state"]) == ("lcx-haystack", "0.3.0", "loaded")
    assert plugin["provides"] == {"probes": ["haystack:lines"], "recipes": ["haystack-tiny"]}
    assert lcx("recipes validate haystack-tiny").code == 0


def test_the_broken_one_is_reported(lcx: Callable[..., Ran]) -> None:
    row = next(row for row in lcx("plugins list --json").json["plugins"] if row["name"] == "broken")
    assert row["state"] == "failed"
    assert row["error"] == "RuntimeError: this plugin is broken on purpose"
    ran = lcx("plugins check")
    assert ran.code == 3
    assert "lcx_broken.py" in ran.out


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "train --help",
        "recipes list --json",
        "recipes show in2 --json",
        "completion show bash",
        "plugins list --json",
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in ("recipes validate --json", "run --recipe in2-tiny --dry-run --json")
        ),
    ],
)
def test_every_other_command_works_beside_the_broken_one(line: str, lcx: Callable[..., Ran]) -> None:
    ran = lcx(line)
    assert ran.code == 0, ran.err
    if "--json" in line:
        assert ran.json


def test_completed_by_bash(lcx_program: str, tmp_path: Path) -> None:
    from tests.cli.test_completion_shells import Terminal

    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    (tmp_path / "work").mkdir()
    terminal = Terminal("bash", lcx_program, tmp_path)
    screen = terminal.press_tab("lcx run --recipe hay", "lcx run --recipe haystack-tiny ")
    assert "noise" not in screen
    terminal.child.close(force=True)


@pytest.mark.slow
def test_dry_run(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    ran = lcx("run --recipe haystack-tiny --dry-run --json")
    assert ran.code == 0, ran.err
    steps = {step["step"]: step for step in ran.json["steps"]}
    assert steps["synth"]["settings"]["examples"] == 64
    assert steps["synth"]["origins"]["examples"] == "recipe haystack-tiny.yaml"
    assert steps["synth"]["origins"]["corpus"] == "recipe in2-tiny.yaml"
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_its_probe_is_found_sized_and_scored(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "long-lines.yaml").write_text("probe: haystack:lines\nsize: 30\nwords: 12\n")
    ran = lcx("eval --recipe haystack-tiny --task haystack:lines,long-lines.yaml --dry-run --json")
    assert ran.code == 0, ran.err
    assert ran.json["steps"][0]["settings"]["tasks"] == ["haystack:lines", "long-lines.yaml"]
    (tmp_path / "long-lines.yaml").write_text("probe: haystack:lines\nwrods: 12\n")
    ran = lcx("eval --recipe haystack-tiny --task long-lines.yaml --dry-run")
    assert ran.code == 2
    assert "unknown key 'wrods'. Did you mean 'words'?" in ran.err
    rows = [
        {"set_id": 0, "position_id": place, "query": str(place), "value": "mill", "pred": pred}
        for place, pred in enumerate(["The mill.", "a windmill", None, "MILL"])
    ]
    saved = tmp_path / "saved.jsonl"
    saved.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = lcx("eval --task haystack:lines --predictions saved.jsonl --json").json
    assert (scored["score"], scored["n"], scored["nulls"]) == (50.0, 4, 1)


@pytest.mark.slow
def test_a_new_package_installs_tests_itself_and_goes(lcx_program: str, tmp_path: Path) -> None:
    from tests.docs.test_plugin_guide import light_venv

    place = tmp_path / "venv"
    library = light_venv(place)
    (library / "pip.pth").write_text(f"{Path(pip_folder()).parent}\n")
    before = {path.name for path in library.iterdir()}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}

    def ran(*words: str, code: int = 0, cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            [str(place / "bin" / "python"), "-m", *words],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            check=False,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    ran("lcx", "plugins", "new", "sprout", "--with", "all")
    shutil.copytree(TESTS / "broken_plugin", tmp_path / "broken")
    assert "installed broken (" in ran("lcx", "plugins", "install", "./broken", code=3)
    assert "installed sprout (lcx-sprout 0.1.0)" in ran("lcx", "plugins", "install", "./lcx-sprout")
    assert "10 passed" in ran("pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "lcx-sprout")
    assert "sprout" in ran("lcx", "--help")
    assert ran("lcx", "sprout", "lcx-sprout/README.md").startswith("lines ")
    assert "gone" in ran("lcx", "plugins", "uninstall", "broken", "sprout")
    assert {path.name for path in library.iterdir()} == before
    assert "sprout" not in ran("lcx", "plugins", "list")


@pytest.mark.slow
def test_its_probe_runs(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.data.tokenizers_for_tests import as_transformers, byte_level

    tokenizer = as_transformers(byte_level(), eos_token="</s>", bos_token="<s>")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "few-lines.yaml").write_text("probe: haystack:lines\nsize: 4\nsets: 2\nmax_new_tokens: 4\n")
    ran = lcx("eval --recipe in2 --run look --model model --task few-lines.yaml --json", OMP_NUM_THREADS="2")
    assert ran.code == 0, ran.err
    [path] = (tmp_path / "look" / "eval").glob("*/predictions-few-lines.jsonl")
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    assert [row["position_id"] for row in rows] == [0, 1, 2, 3] * 2
    assert all(row["value"] in row["excerpt"] for row in rows)


@pytest.mark.nightly  # the slow tier runs what the guide's package brings: tests/docs/test_plugin_guide.py
def test_run(lcx: Callable[..., Ran], tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny_model()
    ran = lcx("run --recipe haystack-tiny --json", OMP_NUM_THREADS="2")
    assert ran.code == 0, ran.err
    train = next(step for step in ran.json["steps"] if step["step"] == "train")
    assert train["metrics"]["plugin_seconds"] > 0
    assert "timed by lcx-haystack" in train["notes"]
    again = lcx("run --recipe haystack-tiny --json")
    assert all(step["reused"] for step in again.json["steps"])
    assert os.path.isdir(tmp_path / "runs" / "haystack-tiny")
