"""`lcx forecast` on the command line: where shapes come from, what is printed, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli_help import heavy_after
from tests.conftest import Ran

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
Cli = Callable[..., Ran]


def config_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder


def test_a_folder_with_only_a_config(cli: Cli, tmp_path: Path) -> None:
    ran = cli("forecast", "--model", str(config_folder(tmp_path / "m")), "--card", "rtx4090", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["shape"]["parameters"] == 1_235_814_400
    named = cli("forecast", "--shape", "llama3.2-1b", "--card", "rtx4090", "--json").json
    assert found["memory"] == named["memory"]
    parts = [size for name, size in found["memory"].items() if name not in ("total", "moment")]
    assert sum(parts) == found["memory"]["total"]
    assert found["fits"] is (found["memory"]["total"] <= found["card"]["gib"] * 2**30)
    assert found["step"]["seconds"] > 0
    assert found["assumptions"]


def test_a_model_that_can_be_fetched_is_forecast_before_it_is(cli: Cli, tmp_path: Path) -> None:
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192}
    folder = config_folder(tmp_path / "m", **sizes, **heads)
    here = cli("forecast", "--model", str(folder), "--json").json["shape"]
    ran = cli("forecast", "--model", "smollm2", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["shape"] == here


def test_an_adapters_base_gives_the_shape(cli: Cli, tmp_path: Path) -> None:
    base = config_folder(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    words = ("forecast", "--rejected", "1", "--set", "loss=dpo", "--set", "tuning=lora", "--json")
    whole, own = (cli(*words, "--model", str(one)).json for one in (base, adapter))
    assert whole["shape"] == own["shape"]
    assert (whole["plan"]["reference"], own["plan"]["reference"]) == ("adapter", "cached")


def test_a_hub_id_whose_config_is_cached(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    snapshot = cache / "models--some--model" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    config_folder(snapshot)
    (cache / "models--some--model" / "refs").mkdir()
    (cache / "models--some--model" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    ran = cli("forecast", "--model", "some/model", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["shape"]["parameters"] == 1_235_814_400
    missing = cli("forecast", "--model", "some/other")
    assert missing.code == 4
    assert "HF_HUB_OFFLINE is set" in missing.err
    assert "--shape" in missing.err


def test_a_config_is_fetched_alone(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        if repo == "gone/away":
            raise LocalEntryNotFoundError("no connection")
        return str(config_folder(tmp_path / "fetched") / "config.json")

    monkeypatch.setattr("lcx.hub.out_of_reach", lambda: "")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    ran = cli("forecast", "--model", "some/model", "--json")
    assert ran.code == 0, ran.err
    assert asked == [("some/model", "config.json")]
    gone = cli("forecast", "--model", "gone/away")
    assert gone.code == 4
    assert "gone/away" in gone.err


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("--shape lama3-8b", 2, "Did you mean 'llama3-8b'?"),
        ("--shape llama3-8b --card h10O", 2, "Did you mean 'h100'?"),
        ("--shape llama3-8b --strategy zero4", 2, "Did you mean"),
        ("--shape llama3-8b --offload cpu", 2, "strategy"),
        ("--shape llama3-8b --gpus 0", 2, "at least 1"),
        ("--shape llama3-8b --set tuning=lora --set lora_targets=k_prof", 2, "name no layer"),
        ("--shape llama3-8b --set tunning=lora", 2, "Did you mean 'tuning'?"),
        ("--shape llama3-8b --model here", 2, "Give one of them"),
        ("--recipe in3 --shape llama3-8b", 2, "Did you mean"),
        ("--tokens 100", 4, "needs a model or a shape"),
        ("--model ./nowhere", 4, "no model at './nowhere'"),
        ("--model tiny", 4, "was not trained on this machine"),
    ],
)
def test_what_is_wrong_is_said(
    words: str, code: int, part: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "empty"))
    ran = cli("forecast", *words.split())
    assert ran.code == code, ran.out + ran.err
    assert part in ran.err


@pytest.mark.parametrize(("name", "text"), [("config.json", "{"), ("config.json", "[]"), ("notes.txt", "")])
def test_folders_without_a_readable_config(name: str, text: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    ran = cli("forecast", "--model", str(tmp_path))
    assert ran.code in (1, 4)
    assert str(tmp_path) in ran.err


def test_models_of_other_kinds_are_refused(cli: Cli, tmp_path: Path) -> None:
    ran = cli("forecast", "--model", str(config_folder(tmp_path / "m", model_type="mixtral")))
    assert ran.code == 2
    assert "mixtral" in ran.err
    assert "--shape" in ran.err


def test_recipes_settings_and_flags_are_heard(cli: Cli) -> None:
    def plan(*words: str) -> dict[str, Any]:
        ran = cli("forecast", *words, "--shape", "mistral-7b", "--json")
        assert ran.code == 0, ran.err
        return ran.json["plan"]

    in2 = plan("--recipe", "in2")
    assert (in2["tuning"], in2["context"], in2["branches"], in2["passes"]) == ("full", 32000, 1, 128)
    qlora = plan("--recipe", "in2-qlora")
    assert (qlora["tuning"], qlora["branches"], qlora["passes"]) == ("qlora", 8, 16)
    assert plan("--recipe", "in2-qlora", "--set", "train.lora_r=8")["lora_r"] == 8
    many = plan("--recipe", "in2", "--gpus", "4", "--nodes", "2", "--tokens", "5000", "--questions", "4")
    assert (many["gpus"], many["strategy"], many["context"], many["passes"]) == (8, "ddp", 5000, 4)
    pairs = plan("--rejected", "2", "--tokens", "5000")
    assert (pairs["branches"], pairs["passes"], pairs["reference"]) == (3, 64, "")
    assert plan("--card", "cpu")["precision"] == "fp32"
    assert plan("--card", "t4")["precision"] == "fp32"
    assert plan("--card", "h100")["precision"] == "bf16"


@pytest.mark.parametrize(
    "words",
    [
        "--shape llama3-8b --tokens 32768 --card 24",
        "--shape llama3-70b --card 80",
        "--recipe in2 --shape mistral-7b --card 40 --set train.gradient_checkpointing=false",
        "--shape llama3.2-1b --tokens 2000000 --card 24 --set tuning=lora",
        "--shape llama3-8b --card 24 --gpus 2 --strategy ddp --rejected 3",
    ],
)
def test_what_does_not_fit_names_a_command_that_does(words: str, cli: Cli) -> None:
    first = cli("forecast", *words.split(), "--json").json
    assert first["fits"] is False
    second = first["next"].split()
    assert second[:2] == ["lcx", "forecast"]
    assert ("--rejected 3" in words) == ("--rejected 3" in first["next"]), "what was asked for is asked again"
    ran = cli(*second[1:], "--json")
    assert ran.code == 0, ran.err
    assert ran.json["fits"] is True, first["next"]


def test_the_longest_context_is_told_with_and_without_checkpointing(cli: Cli) -> None:
    words = ("forecast", "--shape", "llama3-8b", "--set", "tuning=qlora", "--card", "48")
    [row] = cli(*words, "--json").json["longest_context"]
    assert row["with_checkpointing"] > 4 * row["without_checkpointing"] > 0
    for tokens, fits in ((row["with_checkpointing"], True), (row["with_checkpointing"] + 1, False)):
        assert cli(*words, "--tokens", str(tokens), "--json").json["fits"] is fits


def test_a_forecast_for_people(cli: Cli) -> None:
    ran = cli("forecast", "--recipe", "in2-qlora", "--shape", "mistral-7b", "--card", "24")
    assert ran.code == 0, ran.err
    for text in ("weights", "together", "24 GB", "longest context", "FLOPs", "assumed:", "next: lcx"):
        assert text in ran.out


def test_a_dry_run_tells_the_memory(cli: Cli, tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "m")
    words = ("train", "--recipe", "in2", "--run", str(tmp_path / "run"), "--dry-run", "--json")
    [step] = cli(*words, "--model", str(folder)).json["steps"]
    assert "GiB on" in step["forecast"]["memory"]
    [unknown] = cli(*words, "--model", "some/model").json["steps"]
    assert "memory" not in unknown["forecast"]


def test_a_forecast_imports_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_after("forecast", "--recipe", "in2", "--shape", "llama3-8b", "--card", "80") == set()
    assert heavy_after("forecast", "--model", str(config_folder(tmp_path / "m")), "--gpus", "8") == set()


@pytest.mark.parametrize("recipe", ["in2-laptop", "logo-laptop", "longreward-laptop"])
def test_the_time_of_a_training_on_this_cpu(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr("lcx.forecast.report.cpu_tflops", lambda: 0.1)
    words = ("forecast", "--recipe", recipe, "--model", str(config_folder(tmp_path / "m")), "--card", "cpu")
    found = cli(*words, "--json").json
    assert found["step"]["seconds"] == pytest.approx(found["step"]["hardware"] / 3e10)
    assert found["whole"]["seconds"] == pytest.approx(found["whole"]["steps"] * found["step"]["seconds"])
    assert found["memory"]["total"] < found["memory_without_checkpointing"]["total"]
    ran = cli(*words)
    assert f"in {found['whole']['steps']} steps, at most about " in ran.out
    assert "30% (--mfu) of the 100 GFLOP/s" in ran.out
    faster = cli(*words, "--mfu", "0.6", "--json").json
    assert faster["step"]["seconds"] == pytest.approx(found["step"]["seconds"] / 2)
    step = "dpo" if recipe == "longreward-laptop" else "train"
    half = cli(*words, "--set", f"{step}.precision=bf16", "--json").json
    assert half["whole"] == {"steps": found["whole"]["steps"], "seconds": None}, (
        "of fp32 alone is anything known"
    )


def test_a_dry_run_of_an_evaluation_knows_the_window_of_a_model_that_is_here(
    cli: Cli, tmp_path: Path
) -> None:
    def plan(*words: str) -> dict[str, Any]:
        ran = cli("eval", "--task", "needle,val:document", *words, "--dry-run", "--json")
        assert ran.code == 0, ran.err
        found: dict[str, Any] = ran.json["steps"][0]["forecast"]
        return found

    here = ("--model", str(config_folder(tmp_path / "m", max_position_embeddings=8192)))
    assert plan(*here)["queries"]["needle"] > 0
    assert "note" not in plan(*here)
    assert plan("--model", "some/where", "--set", "eval.window=8192")["queries"] == plan(*here)["queries"]
    assert plan("--model", "some/where")["note"].endswith("the model's window is known: needle")
    note = plan(*here, "--set", "eval.context_tokens=1000")["note"]
    assert note == "not counted before it is known how much of the texts fits: val:document"
