"""Every command of the guides runs as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcx import plugins
from lcx.recipe import load

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
TRAINS = {"compare.md", "eval.md", "in2.md", "report.md"}
"""Guides whose commands need the trained tiny model."""
REAL = "first-real-run.md"
"""The guide whose commands need real weights, and hours at its own sizes."""
SMALLEST = {
    "examples: 256": "examples: 8",
    "context_tokens: [600, 1000]": "context_tokens: [300, 400]",
    "context_tokens: 1000": "context_tokens: 300",
    "lengths: [500, 1000]": "lengths: [300]",
    "depths: 5": "depths: 2",
    "sets: 4": "sets: 1\n    limit: 4",
    "max_new_tokens: 48": "max_new_tokens: 8",
}
"""What the test of that guide puts in place of its sizes."""
LESS = {
    "compare.md": {
        "lcx run --recipe in2-tiny": "lcx run --recipe in2-tiny --set synth.examples=256 --set eval.sets=2",
        "lcx eval --recipe in2-tiny --model tiny": "lcx eval --recipe in2-tiny --model tiny --set eval.sets=2",
    },
    "eval.md": {
        "--set eval.depths=8 --set eval.sets=30": "--set eval.depths=4 --set eval.sets=4",
        '--set "eval.lengths=[1024, 2048]" --set eval.sets=2': '--set "eval.lengths=[256, 512]" --set eval.sets=1',
    },
    "report.md": {
        # `lcx demo` itself is run, and looked at, by tests/slow/test_demo.py
        "lcx demo --out demo": "lcx eval --recipe in2-tiny --run demo --model tiny --set eval.sets=2",
    },
}
"""Guides whose commands take minutes at the sizes they name, and what the slow tier runs in their place; the night
runs them as they are printed.
"""
QUICK = {"preference.md"}
"""Guides whose commands run in the quick tier too; those of all others are processes enough for the slow one."""


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(path: Path) -> list[str]:
    lines = [line for body in blocks(path, "console") for line in body.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "console blocks hold commands only"
    return [line.removeprefix("$ ") for line in lines]


CASES = [
    pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name not in QUICK else [])
    for path in GUIDES
    if commands(path) and path.name != REAL
]


def assert_trained(folder: Path) -> int:
    """Assert that weights saved by train steps below a folder are not those they began with; how many there are."""
    from safetensors.torch import load_file

    from lcx.hub import locate

    made = [place for place in folder.rglob("model") if (place.parent / "curve.json").is_file()]
    for place in made:
        if (adapter := place / "adapter_model.safetensors").is_file():
            assert any(weight.any() for name, weight in load_file(adapter).items() if "lora_B" in name), place
            continue
        spec = yaml.safe_load((place.parent / "settings.yaml").read_text())["model"]["value"]
        base = load_file(
            Path(locate(str(folder / spec) if (folder / spec).is_dir() else spec)) / "model.safetensors"
        )
        saved = load_file(place / "model.safetensors")
        assert any(not weight.equal(base[name].to(weight.dtype)) for name, weight in saved.items()), place
    return len(made)


def run_all(lines: list[str], folder: Path) -> None:
    """Run commands of a guide one after the other, as a shell in one folder does."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def first_training(lines: list[str], model: Path) -> str:
    """The first training of a guide, which it shows as a dry run, as a real one of the tiny model."""
    planned = next(line for line in lines if line.startswith("lcx train"))
    real = planned.replace(" --dry-run", "").replace(" --model PATH", "")
    assert real != planned
    return f"{real} --model {shlex.quote(str(model))} --device cpu"


@pytest.mark.parametrize("path", CASES)
def test_every_command_runs(path: Path, tmp_path: Path, lcx_program: str, tiny_model: Any) -> None:
    if path.name in TRAINS:
        tiny_model()
    lines = commands(path)
    for said, less in LESS.get(path.name, {}).items():
        assert any(said in line for line in lines), said
        lines = [line.replace(said, less) for line in lines]
    if path.name == "in2.md":
        lines.append(first_training(lines, tiny_model()))
    run_all(lines, tmp_path)
    assert assert_trained(tmp_path) >= (path.name in ("compare.md", "in2.md"))


@pytest.mark.slow
def test_what_preference_md_plans_to_train_is_trained(
    tmp_path: Path, lcx_program: str, tiny_model: Any
) -> None:
    lines = commands(ROOT / "docs" / "preference.md")
    run_all([*lines[:2], first_training(lines, tiny_model())], tmp_path)
    assert assert_trained(tmp_path) == 1


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LESS)
def test_every_command_runs_at_the_size_it_names(
    name: str, tmp_path: Path, lcx_program: str, tiny_model: Any
) -> None:
    tiny_model()
    run_all(commands(ROOT / "docs" / name), tmp_path)
    assert assert_trained(tmp_path) >= (name == "compare.md")


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_first_real_run_runs_at_its_smallest(tmp_path: Path, smollm2: Path, lcx_program: str) -> None:
    """Every command of the guide on SmolLM2's weights; only the recipe's sizes are smaller."""
    guide = ROOT / "docs" / REAL
    [recipe] = blocks(guide, "yaml")
    for said, small in SMALLEST.items():
        assert recipe.count(said) == 1, said
        recipe = recipe.replace(said, small)
    (tmp_path / "first.yaml").write_text(recipe)
    run_all(commands(guide), tmp_path)
    assert (tmp_path / "first-model" / "model.safetensors").is_file()
    assert assert_trained(tmp_path) == 1
    card = (tmp_path / "first-model" / "README.md").read_text()
    assert card.count("## Long-context evaluation of") == 2
    assert "license: apache-2.0" in card
    assert (tmp_path / "rows.jsonl").read_text().startswith('{"prompt"')


FEW = """name: in2-laptop
extends: {base}
steps:
  - {{id: synth, examples: 8, context_tokens: [200, 300]}}
  - {{id: train, batch: 8}}
  - {{id: eval, tasks: [needle], lengths: [300], depths: 2, sets: 1, limit: 2, max_new_tokens: 8}}
"""
"""The recipe of the guide's seven commands, in small."""


def mixed_folder(folder: Path) -> None:
    """Documents of many kinds, two of which cannot be read."""
    from pydoc_data.topics import topics

    folder.mkdir()
    texts = sorted(topics.items())
    forms = {
        ".txt": "{}",
        ".md": "# On this\n\n{}",
        ".html": "<html><body><p>{}</p></body></html>",
        ".rst": "{}",
    }
    for number, (name, text) in enumerate(texts[:24]):
        ending, form = list(forms.items())[number % len(forms)]
        (folder / f"{name}{ending}").write_text(form.replace("{}", text), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for _, text in texts[24:30]))
    (folder / "code.py").write_text(Path(textwrap.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "old.txt").write_bytes("Café à la carte. ".encode("latin-1") * 40)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))


def seven_commands() -> list[str]:
    """The commands that the guide of a first real run begins with."""
    block = blocks(ROOT / "docs" / REAL, "sh")[0]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def test_a_first_real_run_takes_seven_commands(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = seven_commands()
    assert len(lines) <= 7
    assert {line.split()[1] for line in lines} >= {"models", "synth", "eval", "run", "compare", "export"}
    monkeypatch.chdir(tmp_path)
    mixed_folder(tmp_path / "texts")
    ran = cli(*shlex.split(lines[2])[1:], "--dry-run", "--set", "synth.tokenizer=simple")
    assert ran.code == 0, ran.err


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_seven_commands_lead_to_a_model(tmp_path: Path, smollm2: Path, lcx_program: str) -> None:
    base = ROOT / "recipes" / "in2-laptop.yaml"
    (tmp_path / "in2-laptop.yaml").write_text(FEW.format(base=base))
    mixed_folder(tmp_path / "texts")
    run_all(
        [line.replace("--recipe in2-laptop", "--recipe ./in2-laptop.yaml") for line in seven_commands()],
        tmp_path,
    )
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
    assert assert_trained(tmp_path) == 1
    rejected = (tmp_path / "runs/in2-laptop/synth/rejected.jsonl").read_text(encoding="utf-8")
    assert "old.txt" in rejected
    assert "picture.png" in rejected


def test_the_first_real_runs_recipe_loads(tmp_path: Path) -> None:
    [recipe] = blocks(ROOT / "docs" / REAL, "yaml")
    (tmp_path / "first.yaml").write_text(recipe)
    assert load(str(tmp_path / "first.yaml"), plugins.loaded()).step("train").settings["model"] == "smollm2"
    assert all(recipe.count(said) == 1 for said in SMALLEST)


def test_the_readmes_lcx_commands_parse(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags and recipes of the README exist; its models do not, so only the parse is checked, by --dry-run."""
    (tmp_path / "DIR").mkdir()
    monkeypatch.chdir(tmp_path)
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


def test_every_link_leads_to_a_file_and_every_guide_is_in_the_readme() -> None:
    pages = [*GUIDES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    linked: dict[Path, set[Path]] = {}
    for page in pages:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose)]
        linked[page] = {(page.parent / one).resolve() for one in targets if one and "://" not in one}
    missing = {path for found in linked.values() for path in found if not path.exists()}
    assert not missing
    assert [path.name for path in GUIDES if path not in linked[ROOT / "README.md"]] == []


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
