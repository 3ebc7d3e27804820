"""LOGO's recipes: the paper's values, and what a bare machine is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx.recipe import load, resolve
from lcx.training.settings import PreferenceSettings
from tests.conftest import Ran
from tests.plugins.logo.corpora import PLUGINS, write_corpus

RECIPES = ("logo", "logo-llama3", "logo-mistral", "logo-llama2")


def values(recipe: str, step: str) -> dict[str, Any]:
    return {s.id: s.values() for s in resolve(load(recipe, PLUGINS), PLUGINS, project={})}[step]


@pytest.mark.parametrize(
    ("recipe", "beta", "gamma", "steps", "warmup", "real", "target"),
    [
        ("logo-llama3", 10, 3, 1200, 120, 10_000, 65_536),
        ("logo-mistral", 2.5, 0.25, 1200, 120, 10_000, 32_768),
        ("logo-llama2", 3, 0.6, 1000, 100, 18_000, 32_768),
    ],
)
def test_the_papers_values_by_model(
    recipe: str, beta: float, gamma: float, steps: int, warmup: int, real: int, target: int
) -> None:
    train = values(recipe, "train")
    assert (train["beta"], train["gamma"]) == (beta, gamma)
    assert (train["max_steps"], train["warmup"]) == (steps, warmup)
    assert (train["real_length"], train["target_length"]) == (real, target)
    assert (
        values(recipe, "synth")["llm"] == f"local:{train['model']}"
    )  # LOGO trains a model on its own answers
    window = train["rope"].get("max_position_embeddings", 32_768)
    assert window == target


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_all_of_them_share(recipe: str) -> None:
    synth, train = values(recipe, "synth"), values(recipe, "train")
    assert (synth["segment_tokens"], synth["chunks"], synth["rejected"]) == (512, 16, 2)
    assert (synth["temperature"], synth["top_p"], synth["answer_tokens"]) == (0.7, 0.95, 512)
    assert (train["loss"], train["sft_weight"], train["batch"]) == ("logo", 0.1, 64)
    assert (train["lora_r"], train["lora_alpha"], train["lora_dropout"]) == (32, 16, 0.0)
    assert train["lora_targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (train["learning_rate"], train["schedule"], train["weight_decay"]) == (5e-7, "cosine", 0.05)
    assert train["optimizer"] == "paged_adamw_32bit"
    assert train["sparse_share"] == 0.1
    assert train["input"] == values(recipe, "score")["input"] == "step:synth"
    assert values(recipe, "eval")["model"] == "step:train"
    steps = resolve(load(recipe, PLUGINS), PLUGINS, project={})
    assert isinstance(next(s for s in steps if s.id == "train").settings, PreferenceSettings)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stage", ["train", "score", "eval"])
def test_a_bare_machine_is_told_what_is_missing_and_the_next_command(
    recipe: str, stage: str, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli(stage, "--recipe", recipe)
    assert ran.code == 4
    before = "train" if stage == "eval" else "synth"
    assert f"step '{before}', which is not done" in ran.err
    assert f"hint: lcx {before} --recipe {recipe} --run runs/{recipe}" in ran.err
    assert not Path("runs").exists()


def test_after_synth_the_model_is_what_is_missing(
    cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "texts")
    small = ["--set", "segment_tokens=40", "--set", "examples=8"]
    ran = cli("synth", "--recipe", "logo", "--corpus", "texts", *small)
    assert ran.code == 0, ran.err
    assert "next: lcx score --recipe logo" in ran.out
    ran = cli("score", "--recipe", "logo")
    assert ran.code == 0, ran.err
    [following] = [line for line in ran.out.splitlines() if line.startswith("next: ")]
    assert following == "next: lcx train --recipe logo --input step:score", "on what the filter kept"
    ran = cli(*following.removeprefix("next: lcx ").split())
    assert ran.code == 4
    assert "step 'train' needs a model" in ran.err
    assert "lcx train --recipe logo --run runs/logo --model PATH_OR_HUB_ID" in ran.err


def test_a_dry_run_forecasts_the_calls_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lcx.cli.boundary import run\n"
        "args = '--set synth.examples=100 --set synth.rejected=3 --set synth.answers=corpus --dry-run --json'\n"
        "code = run(['synth', '--recipe', 'logo', *args.split()])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'spacy'} & set(sys.modules)\n"
        "assert not code and not heavy, (code, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    import json

    [step] = json.loads(done.stdout)["steps"]
    found = step["forecast"]
    assert found["calls"] == {"writer": 100, "policy": 300, "judge": 400}
    assert found["prompt_tokens"]["policy"] > 300 * 8000
    assert found["models"] == {"writer": "builtin", "policy": "builtin", "judge": "builtin"}
