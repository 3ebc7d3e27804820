"""`lcx synth|train|eval` and `lcx run` over a method that only counts; and scoring a saved file."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx.cli.show import step_summary
from lcx.cli.trial import small_step
from lcx.plugins import Plugins
from lcx.recipe import Step
from tests.conftest import Ran
from tests.toy import Toy, ToySynth

TWO_TRAINS = """\
method: toy
steps:
  - stage: synth
  - {id: sft, stage: train}
  - {id: dpo, stage: train, model: "step:sft"}
"""


@pytest.fixture
def lcx(
    cli: Callable[..., Ran], toy_plugins: Plugins, toy_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Ran]:
    """Run a command line in the folder of the toy recipe."""
    monkeypatch.chdir(toy_recipe.parent)
    return lambda line: cli(*line.split())


def test_steps_in_turn_each_naming_the_next(lcx: Callable[[str], Ran], toy: Toy) -> None:
    line = "lcx synth --recipe ./toy.yaml"
    for step in ("synth", "train", "eval"):
        ran = lcx(line.removeprefix("lcx "))
        assert ran.code == 0, ran.err
        assert ran.out.startswith(f"{step}: done in ")
        assert "score" in ran.out
        assert "rows" in ran.out
        assert "a note" in ran.out
        *_, line = ran.out.strip().split("next: ")
    assert toy.calls == ["synth", "train", "eval"]
    assert Path("runs/toy/manifest.json").is_file()


def test_a_count_that_is_a_metric_too_is_said_once() -> None:
    report = {"step": "score", "state": "done", "seconds": 1.0, "folder": "runs/x", "files": {}, "notes": []}
    said = step_summary({**report, "metrics": {"pairs": 7, "calls": 3}, "counts": {"pairs": 7, "calls": 4}})
    assert said.count("pairs") == 1
    assert said.count("calls") == 2  # two numbers are two facts


def test_json_is_one_object_and_nothing_else(lcx: Callable[[str], Ran]) -> None:
    ran = lcx("synth --recipe ./toy.yaml --run out --json")
    report = ran.json
    assert report["step"] == "synth"
    assert report["state"] == "done"
    assert report["reused"] is False
    assert report["counts"] == {"rows": 3}
    assert report["metrics"] == {"score": 0.5}
    assert report["folder"] == "out/synth"
    assert report["notes"] == ["a note"]
    assert report["next"] == "lcx train --recipe ./toy.yaml --run out"
    assert lcx("synth --recipe ./toy.yaml --run out --json").json["reused"] is True


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (
            "lcx.training.preview:preview_step",
            "train --recipe mine.yaml --model tiny --input rows.jsonl --preview 1",
        ),
        ("lcx.steps:forecast", "train --recipe mine.yaml --model tiny --input rows.jsonl --dry-run"),
        ("lcx.cli.forecast:Asked.forecast", "forecast --shape llama3-8b --tokens 64"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_libraries_print_is_no_result(
    cli: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    place: str,
    line: str,
    as_json: bool,
) -> None:
    """Some print while they are imported: bitsandbytes empty lines, others news."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: mine\nmethod: sft\nsteps:\n  - stage: train\n    template: plain\n")
    Path("rows.jsonl").write_text('{"passage": "It is 49.", "question": "What is it?", "answer": "49"}\n')
    module, _, path = place.partition(":")
    *above, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for part in above:
        holder = getattr(holder, part)
    work = getattr(holder, name)

    def noisy(*given: Any, **named: Any) -> Any:
        print("\nnews of a library")
        return work(*given, **named)

    monkeypatch.setattr(holder, name, noisy)
    ran = cli(*line.split(), *(["--json"] if as_json else []))
    assert ran.code == 0, ran.err
    assert "news of a library" in ran.err
    assert "news of a library" not in ran.out
    assert ran.out == ran.out.lstrip()
    if as_json:
        json.loads(ran.out)


def test_quiet_says_nothing_on_stderr(lcx: Callable[[str], Ran]) -> None:
    lcx("synth --recipe ./toy.yaml")
    assert "already done" in lcx("synth --recipe ./toy.yaml").err
    assert lcx("synth --recipe ./toy.yaml -q").err == ""
    assert lcx("-q synth --recipe ./toy.yaml").err == ""
    assert "nothing to do" in lcx("synth --recipe ./toy.yaml").out


def test_flags_beat_set_beat_project_file(lcx: Callable[[str], Ran]) -> None:
    Path("lcx.toml").write_text("[steps.synth]\nseed = 1\nrate = 0.1\n")
    line = "synth --recipe ./toy.yaml --dry-run --json --set seed=2 --set synth.on=true --seed 3"
    (step,) = lcx(line).json["steps"]
    assert {key: step["settings"][key] for key in ("seed", "rate", "on", "examples", "threads")} == {
        "seed": 3,
        "rate": 0.1,
        "on": True,
        "examples": 5,
        "threads": 1,
    }
    assert {key: step["origins"][key] for key in ("seed", "rate", "on", "examples", "threads")} == {
        "seed": "--seed",
        "rate": "lcx.toml",
        "on": "--set",
        "examples": "recipe toy.yaml",
        "threads": "method toy",
    }


def test_a_trial_leaves_the_run_as_it_is(lcx: Callable[[str], Ran], toy: Toy) -> None:
    ran = lcx("synth --recipe ./toy.yaml --limit 2")
    assert ran.code == 0, ran.err
    assert "trial of synth: done" in ran.out
    assert "the whole of 5 examples" in ran.out
    assert ran.out.endswith("next: lcx synth --recipe ./toy.yaml --step synth --run runs/toy\n")
    assert not Path("runs/toy").exists()
    made = Path("runs/toy-trial/synth/settings.yaml")
    assert "examples:\n  value: 2\n  from: --limit" in made.read_text()
    assert lcx("synth --recipe ./toy.yaml --limit 2 --json").json["reused"] is True
    assert lcx("synth --recipe ./toy.yaml --limit 3 --json").json["whole"]["examples"] == 5, "another one"
    assert toy.calls == ["synth", "synth"]
    report = lcx("synth --recipe ./toy.yaml --json").json
    assert (report["reused"], report["folder"]) == (False, "runs/toy/synth")
    assert toy.calls == ["synth"] * 3

    Path("runs/other-trial").mkdir()
    Path("runs/other-trial/mine.txt").write_text("mine")
    assert "not empty" in lcx("synth --recipe ./toy.yaml --run runs/other --limit 2").err
    assert "--engine" in lcx("synth --recipe ./toy.yaml --limit 2 --engine local").err
    assert "no such option '--limit'" in lcx("score --recipe ./toy.yaml --limit 2").err
    (plan,) = lcx("synth --recipe ./toy.yaml --limit 4 --dry-run --json").json["steps"]
    assert plan["origins"]["examples"] == "--limit"


def test_a_trial_leaves_alone_what_another_method_calls_documents() -> None:
    class Named(ToySynth):
        documents: tuple[str, ...] = ("a.txt",)

    small = small_step(Step("synth", "synth", "toy", "toy", Named()), 2)
    assert (small.values()["documents"], small.values()["examples"]) == (["a.txt"], 2)


def test_dry_run_writes_nothing(lcx: Callable[[str], Ran], toy: Toy) -> None:
    ran = lcx("run --recipe ./toy.yaml --dry-run")
    assert ran.code == 0
    assert "examples: 5" in ran.out
    assert "# recipe toy.yaml" in ran.out
    assert "calls" in ran.out
    planned = lcx("run --recipe ./toy.yaml --dry-run --json").json
    assert [step["step"] for step in planned["steps"]] == ["synth", "train", "eval"]
    assert planned["steps"][0]["forecast"] == {"calls": 7}
    assert toy.calls == []
    assert not Path("runs").exists()


def test_a_flag_that_the_step_lacks(lcx: Callable[[str], Ran]) -> None:
    ran = lcx("synth --recipe ./toy.yaml --corpus x")
    assert ran.code == 2
    assert "takes no --corpus" in ran.err
    assert "its settings: examples, rate" in ran.err


def test_a_stage_that_the_recipe_lacks(lcx: Callable[[str], Ran]) -> None:
    ran = lcx("score --recipe ./toy.yaml")
    assert ran.code == 2
    assert "recipe 'toy' has no step of the stage score" in ran.err


def test_other_settings_are_refused_until_forced(lcx: Callable[[str], Ran], toy: Toy) -> None:
    assert lcx("synth --recipe ./toy.yaml").code == 0
    ran = lcx("synth --recipe ./toy.yaml --seed 7")
    assert ran.code == 2
    assert "settings.seed: was 0, now 7" in ran.err
    assert lcx("synth --recipe ./toy.yaml --seed 7 --force").code == 0
    assert toy.calls == ["synth", "synth"]


def test_several_steps_of_a_stage_need_step(lcx: Callable[[str], Ran], toy: Toy) -> None:
    Path("two.yaml").write_text(TWO_TRAINS)
    ran = lcx("train --recipe ./two.yaml")
    assert ran.code == 2
    assert "2 steps of the stage train: sft, dpo" in ran.err
    assert "--step sft" in ran.err
    ran = lcx("synth --recipe ./two.yaml")
    assert "next: lcx train --recipe ./two.yaml --step sft" in ran.out
    ran = lcx("train --recipe ./two.yaml --step dpo")
    assert ran.code == 4
    assert "hint: lcx train --recipe ./two.yaml --step sft" in ran.err or "step 'sft'" in ran.err
    assert lcx("train --recipe ./two.yaml --step sft").code == 0
    assert lcx("train --recipe ./two.yaml --step dpo").code == 0
    assert toy.calls == ["synth", "sft", "dpo"]


def test_run_does_all_and_resumes(lcx: Callable[[str], Ran], toy: Toy) -> None:
    toy.fail = None
    first = lcx("run --recipe ./toy.yaml --to train --json").json
    assert [s["step"] for s in first["steps"]] == ["synth", "train"]
    assert first["next"] == "lcx eval --recipe ./toy.yaml"
    ran = lcx("run --recipe ./toy.yaml --json").json
    assert [(s["step"], s["reused"]) for s in ran["steps"]] == [
        ("synth", True),
        ("train", True),
        ("eval", False),
    ]
    assert ran["next"] == ""
    assert toy.calls == ["synth", "train", "eval"]
    assert "eval: done before" in lcx("run --recipe ./toy.yaml --from eval").out


def test_run_spreads_flags(lcx: Callable[[str], Ran]) -> None:
    steps = lcx("run --recipe ./toy.yaml --seed 4 --model there --dry-run --json").json["steps"]
    assert [s["settings"].get("seed") for s in steps] == [4, 4, None]
    assert [s["settings"].get("model") for s in steps] == [None, "there", "step:train"]
    assert lcx("run --recipe ./toy.yaml --llm builtin --dry-run").code == 2


@pytest.mark.parametrize(
    ("recipe", "chosen", "takers"),
    [
        ("in2", ["synth", "score", "train", "eval"], {"synth"}),
        ("in2", ["eval"], {"synth", "eval"}),  # what a model was trained on is not there to be asked about
        ("longreward-tiny", ["sft-data", "synth", "before", "eval"], {"sft-data", "synth"}),
        ("probe", ["eval"], {"eval"}),
    ],
)
def test_a_model_is_not_measured_by_the_texts_it_is_trained_on(
    recipe: str, chosen: list[str], takers: set[str], tmp_path: Path
) -> None:
    from lcx.cli import stages
    from lcx.cli.run import spread

    job = stages.open_job(stages.Request(recipe, run=str(tmp_path / "run")))
    assert (
        set(spread(job, {"corpus": "docs", "fields": {}}, chosen)) - {"score", "train", "sft", "dpo"}
        == takers
    )


def test_lcx_runs_is_the_default_place(
    lcx: Callable[[str], Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCX_RUNS", str(tmp_path / "elsewhere"))
    assert lcx("synth --recipe ./toy.yaml --json").json["folder"] == str(
        tmp_path / "elsewhere" / "toy" / "synth"
    )


# -- how models are called


CALLS = "--base-url http://localhost:1 --concurrency 3 --max-calls 4 --max-tokens 5 --max-cost 1.5 --gpus 2"


@pytest.mark.parametrize("stage", ["synth", "score"])
def test_flags_that_say_how_models_are_called(cli: Callable[..., Ran], stage: str) -> None:
    ran = cli(stage, "--recipe", "logo", "--judge", "openai:some", "--dry-run", "--json", *CALLS.split())
    (step,) = ran.json["steps"]
    wanted = {
        "judge": "openai:some",
        "base_url": "http://localhost:1",
        "concurrency": 3,
        "max_calls": 4,
        "max_tokens": 5,
        "max_cost": 1.5,
        "gpus": 2,
    }
    assert {key: step["settings"][key] for key in wanted} == wanted
    assert list(step["settings"])[-1] == "gpus"  # behind what the step itself is about


def test_gpus_of_a_run_are_for_training_and_for_local_models(cli: Callable[..., Ran]) -> None:
    line = "run --recipe logo --gpus 2 --device cpu --dry-run --json"
    steps = {step["step"]: step for step in cli(*line.split()).json["steps"]}
    assert steps["synth"]["settings"]["gpus"] == steps["score"]["settings"]["gpus"] == 2
    assert steps["train"]["launch"]["processes"] == 2
    assert steps["eval"]["settings"]["gpus"] == 2, "a judge may be a local model"
    (synth,) = cli(*line.split(), "--to", "synth").json["steps"]
    assert synth["settings"]["gpus"] == 2
    ran = cli(*["run", "--recipe", "logo", "--strategy", "fsdp", "--to", "synth", "--dry-run"])
    assert ran.code == 2
    assert "for train steps" in ran.err


def test_the_next_command_keeps_the_server(cli: Callable[..., Ran], tmp_path: Path) -> None:
    from lcx.cli.stages import Request, next_command, open_job, resolve

    def after(recipe: str, done: str, **flags: Any) -> str:
        request = Request(
            recipe, run=str(tmp_path / "run"), flags={"base_url": "http://h/v1", **flags}, sets=["seed=1"]
        )
        job = open_job(request)
        steps = resolve(job, {}, done)
        return next_command(job, next(step for step in steps if step.id == done), steps)

    server = "--base-url http://h/v1"
    assert after("longreward", "synth", llm="openai:x").endswith(f"--judge openai:MODEL {server}")
    assert server not in after("longreward", "synth")  # no server was asked so far
    assert server not in after("in2", "score", judge="openai:x")  # training calls nobody


def test_the_next_command_repeats_what_has_to_be_the_same(
    lcx: Callable[[str], Ran], toy: Toy, tmp_path: Path
) -> None:
    """Settings of later steps, and how another model was evaluated: what is printed is run as it stands."""
    first = lcx(
        "synth --recipe ./toy.yaml --set examples=4 --set train.batch=3 --set eval.sample_seed=7 --json"
    ).json
    assert first["next"] == "lcx train --recipe ./toy.yaml --set train.batch=3 --set eval.sample_seed=7"
    second = lcx(f"{first['next'].removeprefix('lcx ')} --json").json
    assert second["next"] == "lcx eval --recipe ./toy.yaml --set eval.sample_seed=7"
    before = Path("runs/toy/eval/base/settings.yaml")
    before.parent.mkdir(parents=True)
    before.write_text(
        "model: {value: base, from: --model}\nsample_seed: {value: 9, from: --sample-seed}\n"
        "tasks: {value: [a, b], from: --task}\noptions: {value: {x: 1}, from: --set}\n"
        "limit: {value: 3, from: recipe toy}\nlm_eval_code: {value: true, from: --set}\n"
    )
    again = lcx("train --recipe ./toy.yaml --set train.batch=3 --json").json
    wanted = "lcx eval --recipe ./toy.yaml --sample-seed 9 --task a,b --set 'eval.options={x: 1}'"
    assert again["next"] == wanted, "asked as the other model was"
    done = lcx("run --recipe ./toy.yaml --seed 5 --to synth --run other --json").json
    assert done["next"] == "lcx train --recipe ./toy.yaml --run other --seed 5"


def test_a_server_that_nothing_asks_is_said(cli: Callable[..., Ran], tmp_path: Path) -> None:
    from tests.plugins.in2.test_synth import write_corpus

    corpus = write_corpus(tmp_path / "corpus", files=4)
    words = ["--set", "examples=8", "--set", "segment_tokens=40", "--set", "context_tokens=[200, 300]"]
    run = ["--recipe", "in2", "--run", str(tmp_path / "run"), "--base-url", "http://localhost:1/v1"]
    ran = cli("synth", *run, *words, "--corpus", str(corpus))
    assert ran.code == 0
    assert "--base-url is given, but no model here is openai:MODEL (llm builtin)" in ran.err


# -- a file of predictions


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    rows = [
        {
            "set_id": 0,
            "position_id": i,
            "pred": f"def name{i}" if i else None,
            "name": f"name{i}",
            "query": f"q{i}",
        }
        for i in range(10)
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_saved_file_is_scored_without_a_model(cli: Callable[..., Ran], predictions: str) -> None:
    scores = cli("eval", "--task", "val:code", "--predictions", predictions, "--span", "5", "--json").json
    assert scores["task"] == "val:code"
    assert scores["nulls"] == 1
    assert scores["spans"] == [0.8, 1.0]
    ran = cli("eval", "--task", "val:code", "--predictions", predictions, "--span", "5")
    assert ran.code == 0
    assert "position in the context" in ran.out
    assert "0.900" in ran.out
    assert "0.800 1.000" in ran.out


def test_compat_leaves_nulls_out(cli: Callable[..., Ran], predictions: str) -> None:
    line = (
        "eval",
        "--task",
        "val:code",
        "--predictions",
        predictions,
        "--span",
        "5",
        "--json",
        "--compat",
        "film",
    )
    assert cli(*line).json["spans"] == [1.0, 1.0]


def test_predictions_and_recipe_exclude_each_other(cli: Callable[..., Ran], predictions: str) -> None:
    assert cli("eval", "--recipe", "in2", "--predictions", predictions).code == 2
    assert cli("eval", "--predictions", predictions).code == 2


def test_task_with_a_recipe_names_the_probe(cli: Callable[..., Ran]) -> None:
    line = ("eval", "--recipe", "in2-tiny", "--task", "val:code", "--span", "8", "--dry-run", "--json")
    (step,) = cli(*line).json["steps"]
    assert step["settings"]["tasks"] == ["val:code"]
    assert step["settings"]["span"] == 8


# ---- places and names that settings have


REWARD = "eval --recipe longreward --task reward --model builtin --set eval.judging."
NEEDLE = "eval --task needle --model tiny --set eval."


@pytest.fixture
def other_run(tmp_path: Path) -> Path:
    """A run folder of another recipe, with data and a model."""
    run = tmp_path / "other"
    (run / "synth" / "data").mkdir(parents=True)
    (run / "train" / "model").mkdir(parents=True)
    (run / "train" / "model" / "config.json").write_text("{}")
    (run / "manifest.json").write_text(json.dumps({"recipe": "logo", "steps": {}}))
    return run


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ("train --recipe in2 --input RUN --model tiny", "'logo', not data", "--input RUN/synth/data"),
        ("score --recipe longreward --input RUN", "'logo', not data", "--input RUN/synth/data"),
        ("synth --recipe in2 --corpus RUN", "'logo', not documents", "--corpus FILE_OR_FOLDER"),
        ("synth --recipe in2 --run RUN", "not of 'in2'", "RUN/synth/data or --model RUN/train/model"),
        ("eval --task needle --model RUN", "no model in the folder 'RUN'", "--model RUN/train/model"),
        ("train --recipe in2 --model /nope", "no model at '/nope'", "--model PATH"),
        ("eval --task needle --model ./nope/x", "no model at './nope/x'", "--model PATH"),
        ("synth --recipe in2 --corpus /nope", "there is no corpus '/nope'", "Give a file"),
        ("synth --recipe in2 --llm local:/nope", "no model at '/nope'", "synth.llm=local:PATH_OR_HUB_ID"),
        ("synth --recipe in2 --set synth.tokenizer=/nope", "nothing at '/nope'", "synth.tokenizer=PATH"),
        ("synth --recipe in2 --set synth.general=no.jsonl", "nothing at 'no.jsonl'", "synth.general=PATH"),
        (f"{REWARD}prompts=/nope", "nothing at '/nope'", "eval.judging.prompts=PATH"),
        (f"{REWARD}retriever=nope", "unknown retriever 'nope'", "lcx plugins list"),
        (f"{NEEDLE}tokenizer=words", "'words' only counts", "eval.judging.tokenizer=words"),
        (f"{NEEDLE}probes=needle", "Probes are tasks now", ""),
        (f"{NEEDLE}device=cpu", "--device cpu", ""),
        ("synth --recipe in2 --set synth.ngram=5", "It is fixed now: 10 words", ""),
        ("synth --recipe in2 --set synth.integration_segments=5", "It is fixed now: 5 segments", ""),
        ("synth --recipe logo --set synth.joint_chunks=5", "It is fixed now: 3 chunks", ""),
    ],
)
def test_a_dry_run_says_which_place_or_name_is_wrong_and_what_to_give(
    cli: Any, other_run: Path, tmp_path: Path, words: str, said: str, hint: str
) -> None:
    given = words.replace("RUN", str(other_run)).split()
    if "--run" not in given:
        given += ["--run", str(tmp_path / "new")]
    ran = cli(*given, "--dry-run")
    assert ran.code in (2, 4), ran.out
    told = " ".join(ran.err.split())
    assert said.replace("RUN", str(other_run)) in told
    assert hint.replace("RUN", str(other_run)) in told


def test_a_model_that_a_hub_may_have_and_what_steps_will_make_stay_possible(cli: Any, tmp_path: Path) -> None:
    run = tmp_path / "new"
    for model in ("org/name", str(run / "train" / "model")):
        ran = cli("eval", "--task", "needle", "--model", model, "--run", str(run), "--dry-run")
        assert ran.code == 0, ran.err


def test_runs_are_listed_with_their_state_and_last_evaluation(
    cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCX_RUNS", str(tmp_path / "none"))
    assert "next: lcx run" in cli("runs", "list").out
    place = tmp_path / "runs"

    def record(state: str, stage: str = "synth", **more: Any) -> dict[str, Any]:
        return {"state": state, "stage": stage, **more}

    scored = record("done", "eval", finished="2", metrics={"tasks": {"needle": {"average": 0.5}, "x": {}}})
    older = record("done", "eval", finished="1", metrics={"tasks": {"needle": {"average": 0.1}}})
    held = {
        "a": json.dumps({"recipe": "in2", "steps": {"eval/m": scored, "eval/n": older}}),
        "b": json.dumps(
            {"recipe": "logo", "steps": {"synth": record("done"), "train": record("interrupted")}}
        ),
        "c": "{",
    }
    for age, (name, text) in enumerate(held.items()):
        (place / name).mkdir(parents=True)
        (place / name / "manifest.json").write_text(text)
        os.utime(place / name / "manifest.json", (1e9 - age, 1e9 - age))
    (place / "no run").mkdir()
    ran = cli("runs", "list", str(place), "--json")
    rows = {row["name"]: row for row in ran.json["runs"]}
    assert list(rows) == ["a", "b", "c"], "the latest first"
    assert rows["a"]["scores"] == {"needle": 0.5}
    assert rows["b"]["state"] == "train interrupted"
    assert rows["c"]["state"] == "its manifest cannot be read"
    out = cli("runs", "list", str(place)).out
    assert "eval/m, eval/n done" in out
    for wrong, hint in ((place / "nowhere", "lcx runs list"), (place / "a", "lcx status")):
        ran = cli("runs", "list", str(wrong))
        assert ran.code == 4
        assert hint in ran.err
    assert "is no run" in cli("merge", str(place / "nowhere")).err
    assert "needle 0.50" in out
