"""`lcx recipes`: list, show, copy, validate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lcx.plugins import Plugins
from tests.conftest import Ran


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_list(cli: Callable[..., Ran]) -> None:
    rows = {row["name"]: row for row in cli("recipes", "list", "--json").json["recipes"]}
    assert rows["in2"]["method"] == "in2"
    assert [step["id"] for step in rows["in2"]["steps"]] == ["synth", "score", "train", "eval"]
    assert rows["in2"]["summary"]
    assert rows["in2"]["owner"] == "lcx-core"
    out = cli("recipes", "list").out
    assert all(name in out for name in rows)


def test_show_is_a_recipe_in_itself(cli: Callable[..., Ran]) -> None:
    shown = cli("recipes", "show", "in2").out
    Path("shown.yaml").write_text(shown)
    assert cli("recipes", "validate", "shown.yaml").code == 0
    steps = {step["id"]: step for step in yaml.safe_load(shown)["steps"]}
    assert steps["train"]["input"] == "step:score"


def test_show_with_origins_and_overrides(cli: Callable[..., Ran]) -> None:
    Path("lcx.toml").write_text("[recipes.in2.train]\nepochs = 2\n")
    out = cli("recipes", "show", "in2", "--origin", "--set", "train.batch=64").out
    lines = {line.split(":")[0].strip(): line for line in out.split("\n") if "#" in line}
    assert "batch: 64" in out
    assert "epochs: 2.0" in out
    assert "# lcx.toml" in lines["epochs"]
    assert "# the step before" in lines["input"]
    assert yaml.safe_load(out)["name"] == "in2"
    as_json = cli("recipes", "show", "in2", "--set", "train.batch=64", "--json").json
    assert as_json["steps"][2]["settings"]["batch"] == 64
    assert as_json["steps"][2]["origins"]["batch"] == "--set"


def test_settings_are_described(cli: Callable[..., Ran]) -> None:
    out = cli("recipes", "show", "in2", "--describe", "train.tuning", "lora_r").out
    assert "train.tuning: full\n    which weights are trained\n    takes full | lora | qlora\n" in out
    assert "train.lora_r: 32" in out
    rows = cli("recipes", "show", "in2-tiny", "--describe", "synth", "--json").json["settings"]
    assert {row["step"] for row in rows} == {"synth"}
    examples = next(row for row in rows if row["name"] == "examples")
    assert examples["default"] != examples["value"]
    assert examples["from"] == "recipe in2-tiny.yaml"
    every = cli("recipes", "show", "in2", "--describe", "--json").json["settings"]
    assert len(every) > 100
    assert all(row["about"] and row["takes"] for row in every), "each setting says what it is"
    ran = cli("recipes", "show", "in2", "--describe", "train.lorar")
    assert ran.code == 2
    assert "train.lora_r" in ran.err


def test_options_of_tasks_are_described(cli: Callable[..., Ran]) -> None:
    shown = ["recipes", "show", "in2", "--describe", "--set", "eval.lengths=[64]", "--json"]
    ran = cli(*shown, "eval.options.needle", "--set", "eval.options.needle.contexts=single")
    rows = {row["name"]: row for row in ran.json["settings"]}
    assert rows["options.needle.contexts"]["value"] == "single"
    assert rows["options.needle.contexts"]["from"] == "--set"
    assert rows["options.needle.contexts"]["values"] == ["shared", "single"]
    assert rows["options.needle.lengths"]["value"] == [64]  # the step's own, as for every task
    [row] = cli(*shown, "eval.options.ruler:multikey.keys").json["settings"]
    assert (row["default"], row["takes"]) == (40, "whole number (at least 2)")
    for name, said in (
        ("eval.options.needle.context", "Did you mean 'contexts'?"),
        ("eval.options.needl", "Did you mean 'needle'?"),
        ("eval.options.longbench:qasper", "has no options"),
        ("train.options.needle", "no setting"),
    ):
        ran = cli(*shown[:-1], name)
        assert ran.code == 2
        assert said in ran.err
    ran = cli("eval", "--model", "tiny", "--task", "needle", "--set", "eval.options.needle.contex=1", "-n")
    assert "--describe eval.options.needle` says what it has" in ran.err


def test_the_page_of_settings_is_of_today() -> None:
    from lcx import plugins
    from lcx.cli.reference import reference

    page = Path(__file__).parents[2] / "docs/settings.md"
    assert page.read_text() == reference(plugins.load()), "python -m lcx.cli.reference writes it again"


def test_the_schema_takes_every_recipe_and_refuses_what_validate_refuses(cli: Callable[..., Ran]) -> None:
    from jsonschema import Draft202012Validator

    schema = cli("recipes", "schema").json
    Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(schema)
    rows = cli("recipes", "list", "--json").json["recipes"]
    for row in rows:
        held = yaml.safe_load(Path(row["path"]).read_text())
        assert not list(check.iter_errors(held)), row["name"]
    good = {"method": "in2", "steps": [{"stage": "train", "tuning": "lora"}]}
    assert check.is_valid(good)
    for bad in (
        {"stage": "train", "tuning": "lorax"},
        {"stage": "trains"},
        {"stage": "train", "method": "in2", "lorar": 3},
        {"stage": "synth", "method": "in2", "candidates": 3},
        {"id": "../x", "stage": "train"},
        {},
    ):
        assert not check.is_valid({"method": "in2", "steps": [bad]}), bad
    of_in2 = Draft202012Validator(cli("recipes", "schema", "in2").json)
    assert not of_in2.is_valid({"method": "in2", "steps": [{"stage": "synth", "candidates": 3}]})


def test_a_copy_tells_editors_its_schema(cli: Callable[..., Ran]) -> None:
    cli("recipes", "copy", "in2", "a.yaml")
    first, second = Path("a.yaml").read_text().split("\n")[:2]
    place = first.removeprefix("# yaml-language-server: $schema=file://")
    assert json.loads(Path(place).read_text())["title"] == "A recipe of lcx"
    cli("recipes", "copy", "./a.yaml", "b.yaml")
    assert Path("b.yaml").read_text().split("\n")[:2] == [first, second], "one such line, not two"


def test_copy_refuses_to_overwrite(cli: Callable[..., Ran]) -> None:
    ran = cli("recipes", "copy", "in2")
    assert ran.code == 0
    assert ran.out.split("next: lcx ")[1].strip() == "run --recipe ./in2.yaml --dry-run"
    assert cli(*ran.out.split("next: lcx ")[1].split()).code == 0
    Path("in2.yaml").write_text("mine")
    ran = cli("recipes", "copy", "in2")
    assert ran.code == 2
    assert "--force" in ran.err
    assert Path("in2.yaml").read_text() == "mine"
    assert cli("recipes", "copy", "in2", "--force").code == 0
    assert Path("in2.yaml").read_text() != "mine"


def test_copy_under_another_name_or_into_a_folder(cli: Callable[..., Ran]) -> None:
    Path("folder").mkdir()
    assert cli("recipes", "copy", "in2-tiny", "folder").code == 0
    assert cli("recipes", "copy", "in2-tiny", "folder/mine.yaml").code == 0
    assert cli("recipes", "show", "folder/mine.yaml", "--json").json["name"] == "mine"
    assert cli("recipes", "copy", "in2-tiny", "mine.txt").code == 2


def test_a_copy_still_finds_what_it_extends(
    cli: Callable[..., Ran], toy_plugins: Plugins, toy_recipe: Path
) -> None:
    Path("sub").mkdir()
    Path("child.yaml").write_text("extends: toy.yaml\nsteps: []\n")
    assert cli("recipes", "copy", "./child.yaml", "sub/").code == 0
    assert cli("recipes", "validate", "sub/child.yaml").code == 0


def test_validate_all_bundled(cli: Callable[..., Ran]) -> None:
    ran = cli("recipes", "validate")
    assert ran.code == 0
    assert ran.out.count("ok  ") >= 3


@pytest.mark.parametrize(
    ("method", "step", "error"),
    [
        ("logo", "stage: train, loss: lgo", "unknown loss 'lgo'. Did you mean 'logo'?"),
        ("logo", "stage: train, loss_options: {gama: 3}", "has no option 'gama'. Did you mean 'gamma'?"),
        ("logo", "stage: train, loss_options: {gama}", "has no option 'gama'"),
        ("preference", "stage: train, loss: dpo, loss_options: {ce: tokens}", "'dpo': 'ce': input should be"),
        ("preference", "stage: train, gamma: 1", "the loss 'dpo' has no option 'gamma'"),
        ("sft", "stage: train, template: in3", "there is no template 'in3'"),
        ("sft", "stage: train, optimizer: adamw", "Did you mean 'adamw_torch'?"),
        ("sft", "stage: eval, template: plane", "there is no template 'plane'"),
        ("sft", "stage: eval, template: ~0", "there is no template '~0'"),
        ("sft", "stage: eval, judge: 'opnai:some'", "unknown text generator 'opnai'. Did you mean 'openai'?"),
        ("logo", "stage: synth, importance: spcy", "unknown importance 'spcy'. Did you mean 'spacy'?"),
        ("logo", "stage: synth, template: tinny", "there is no template 'tinny'"),
        ("logo", "stage: score, judge: buildin", "unknown text generator 'buildin'. Did you mean 'builtin'?"),
        ("longreward", "stage: score, retriever: bm24", "unknown retriever 'bm24'. Did you mean 'bm25'?"),
        (
            "longreward",
            "stage: synth, writer: locl:x",
            "unknown text generator 'locl'. Did you mean 'local'?",
        ),
        ("in2", "stage: synth, llm: opena:x", "unknown text generator 'opena'. Did you mean 'openai'?"),
    ],
)
def test_names_are_resolved_before_anything_runs(
    cli: Callable[..., Ran], method: str, step: str, error: str
) -> None:
    stage = step.split(",")[0].removeprefix("stage: ")
    Path("wrong.yaml").write_text(f"method: {method}\nsteps:\n  - {{{step}}}\n")
    row = cli("recipes", "validate", "wrong.yaml", "--json")
    assert row.code == 2
    assert error in row.json["recipes"][0]["error"]
    assert row.json["recipes"][0]["error"].startswith(f"step '{stage}': ")
    for command in ("run", stage):
        ran = cli(command, "--recipe", "./wrong.yaml", "--dry-run")
        assert (ran.code, error in ran.err) == (2, True), command


def test_a_dry_run_counts_the_rows_that_are_there(cli: Callable[..., Ran], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
    config = {"model_type": "llama", "vocab_size": 99, "max_position_embeddings": 4096, **sizes}
    model = tmp_path / "model"
    model.mkdir()
    words.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps(config))
    rows = [
        {"context": "w " * length, "question": "x y", "chosen": "a b c", "rejected": "d"}
        for length in (30, 300, 20)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))

    def plan(recipe: str, *sets: str) -> Ran:
        given = [word for one in sets for word in ("--set", f"train.{one}")]
        words = ("--recipe", recipe, "--model", str(model), "--input", str(data), "--device", "cpu")
        return cli("train", *words, "--dry-run", "--json", *given)

    for recipe in ("in2", "logo"):
        found = plan(recipe, *(["target_length=4096"] if recipe == "logo" else [])).json
        cost = found["steps"][0]["forecast"]
        assert cost["longest_row"] == "305 tokens without the template"
        assert " at 300 context tokens" in cost["memory"]
        assert cost["time"].startswith("at most about ")
        assert " for 1 step " in cost["time"]
    for ran, error in (
        (
            plan("in2", "max_tokens=200"),
            "the longest row has 305 tokens and its template's, more than max_tokens",
        ),
        (
            plan("logo", "target_length=200"),
            "a target length of 200 has no room for the longest row of 305 tokens",
        ),
        (plan("logo"), "the target length 65,536 lies beyond the model's window of 4,096"),
    ):
        assert ran.code in (1, 2)
        assert error in ran.err
    assert plan("logo", "rope={max_position_embeddings: 65536}").code == 0
    Path("mine.yaml").write_text(f"method: logo\nsteps:\n  - {{stage: train, model: {model}}}\n")
    assert "lies beyond the model's window" in cli("recipes", "validate", "mine.yaml").out
    data.write_text(json.dumps({"context": "c", "question": "q", "answer": "a"}))
    assert "there is no pair to learn from" in plan("logo", "target_length=4096").err


def test_a_given_setting_that_another_switches_off_is_an_error(cli: Callable[..., Ran]) -> None:
    words = ("train", "--recipe", "in2", "--dry-run", "--set")
    for given in ("lora_r=64", "lora_targets=q_proj"):
        ran = cli(*words, f"train.{given}")
        assert (ran.code, f"'{given.partition('=')[0]}' would not be used" in ran.err) == (2, True)
        assert "hint: --set train.tuning=lora" in ran.err
        assert cli(*words, f"train.{given}", "--set", "train.tuning=lora").code == 0
    assert cli("train", "--recipe", "in2-qlora", "--dry-run", "--set", "train.tuning=full").code == 0


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lr=1", "'learning_rate'"),
        ("num_train_epochs=1", "'epochs'"),
        ("per_device_train_batch_size=1", "'micro_batch' counts contexts"),
        ("gradient_accumulation_steps=1", "'batch' counts a whole optimizer step"),
        ("load_in_4bit=true", "qlora trains adapters"),
        ("optim=adamw", "'optimizer'"),
        ("optimizer=adamw", "'adamw_torch'"),
        ("optimizer=AdamW", "'adamw_torch'"),
    ],
)
def test_the_words_of_other_trainers_lead_to_ours(cli: Callable[..., Ran], theirs: str, ours: str) -> None:
    ran = cli("train", "--recipe", "logo", "--dry-run", "--set", f"train.{theirs}")
    assert (ran.code, ours in ran.err) == (2, True), ran.err


def test_a_wrong_name_in_a_later_step_stops_the_first_one(cli: Callable[..., Ran]) -> None:
    ran = cli("run", "--recipe", "logo-tiny", "--run", "r", "--set", "train.loss=lgo")
    assert (ran.code, "step 'train': unknown loss 'lgo'" in ran.err) == (2, True)
    assert not Path("r").exists()


def test_validate_searches_folders_in_depth_and_names_each_error(
    cli: Callable[..., Ran], toy_plugins: Plugins, toy_recipe: Path
) -> None:
    deep = Path("a/b")
    deep.mkdir(parents=True)
    (deep / "key.yaml").write_text("method: toy\nsteps:\n  - {stage: synth, exmples: 3}\n")
    (deep / "reference.yml").write_text("method: toy\nsteps:\n  - {stage: train, input: 'step:synth'}\n")
    (deep / "method.yaml").write_text("method: tyo\nsteps:\n  - stage: synth\n")
    (deep / "good.yaml").write_text(toy_recipe.read_text())
    (deep / "task.yaml").write_text("method: sft\nsteps:\n  - {stage: eval, tasks: [needel]}\n")
    ran = cli("recipes", "validate", "a", str(toy_recipe), "--json")
    rows = {Path(row["recipe"]).name: row for row in ran.json["recipes"]}
    assert not ran.json["ok"]
    assert ran.code in (2, 3)
    assert rows["good.yaml"]["ok"]
    assert rows["toy.yaml"]["ok"]
    assert "Did you mean 'examples'" in rows["key.yaml"]["error"]
    assert "does not come before it" in rows["reference.yml"]["error"]
    assert not rows["method.yaml"]["ok"]
    assert "step 'eval': there is no task 'needel'. Did you mean 'needle'?" in rows["task.yaml"]["error"]
    out = cli("recipes", "validate", "a").out
    assert out.count("FAIL") == 4
    assert cli("recipes", "validate", str(deep / "none")).code == 2
