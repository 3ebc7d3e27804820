"""Launches: presets as accelerate reads them, plans, refusals, outcomes, and one real run of two processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from lcx.context import Context
from lcx.errors import LcxError, MissingError, UsageError
from lcx.process import launched
from lcx.training import launch, plan, sharding
from lcx.training.plan import LaunchOptions, plan_launch
from lcx.training.settings import PreferenceSettings
from tests.conftest import Ran
from tests.training.launch_runs import Start, losses, prepare, variables, worst


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how many GPUs the machine has, and that DeepSpeed is installed."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plan, "find_spec", lambda name: object())

    def say(count: int) -> None:
        monkeypatch.setattr(plan, "count_gpus", lambda: count)

    say(8)
    return say


def values(**options: Any) -> dict[str, Any]:
    return PreferenceSettings(**options).model_dump()


def made(ask: LaunchOptions, device: str = "auto", **options: Any) -> plan.LaunchPlan:
    found = plan_launch(ask, device, values(**options))
    assert found is not None
    return found


# -- presets


@pytest.mark.parametrize("name", plan.preset_names())
def test_presets_are_configs_that_accelerate_reads(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(plan.preset_text(name))
    config = ClusterConfig.from_yaml_file(str(path))  # refuses unknown keys
    assert config.num_processes == 8
    assert plan.preset_summary(name)
    for section in (config.deepspeed_config, config.fsdp_config):
        assert not {"scheduler", "optimizer", "deepspeed_config_file"} & set(section)
    known = vars(launch_command_parser().parse_args(["--config_file", str(path), "script.py"]))
    for section in (config.deepspeed_config, config.fsdp_config):
        assert set(section) <= set(known), "keys that accelerate's launcher would ignore"


@pytest.mark.parametrize(
    ("ask", "flag", "cpu"),
    [
        (LaunchOptions(gpus=2), "multi_gpu", False),
        (LaunchOptions(gpus=2), "multi_gpu", True),
        (LaunchOptions(gpus=4, strategy="fsdp", offload="cpu"), "use_fsdp", False),
        (LaunchOptions(gpus=2, strategy="fsdp"), "use_fsdp", True),
        (LaunchOptions(gpus=4, strategy="zero2"), "use_deepspeed", False),
        (LaunchOptions(gpus=4, strategy="zero3", offload="cpu"), "use_deepspeed", False),
    ],
)
def test_accelerate_launches_what_was_planned(
    ask: LaunchOptions, flag: str, cpu: bool, gpus: Callable[[int], None], tmp_path: Path
) -> None:
    gpus(0 if cpu else 8)
    planned = made(ask)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dict(planned.config)))
    argv = planned.argv(path)
    assert argv[1:4] == ["-P", "-m", "lcx.training.launch"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(argv[4:]))
    assert getattr(args, flag)
    assert (args.num_processes, args.num_machines, args.use_cpu) == (ask.gpus, 1, cpu)
    assert args.module
    assert args.training_script == "lcx"
    assert args.training_script_args == []
    if flag == "use_fsdp":
        variables = prepare_multi_gpu_env(args)
        assert variables["FSDP_VERSION"] == "2"
        assert variables["FSDP_OFFLOAD_PARAMS"] == str(ask.offload is not None).lower()
        assert variables["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
        assert variables["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    if flag == "use_deepspeed":
        assert args.zero_stage == int(planned.strategy[-1])
        assert (args.offload_optimizer_device == "cpu") == (ask.offload is not None)
        assert (args.offload_param_device == "cpu") == (planned.strategy == "zero3")
    assert planned.environment().get("ACCELERATE_USE_CPU") == ("true" if cpu else None)
    assert int(planned.environment()["OMP_NUM_THREADS"]) >= 1


def test_qlora_takes_presets_of_its_own(gpus: Callable[[int], None]) -> None:
    whole, bits = (
        made(LaunchOptions(gpus=2, strategy="fsdp"), tuning=t).config["fsdp_config"]
        for t in ("lora", "qlora")
    )
    assert whole["fsdp_cpu_ram_efficient_loading"] is True
    assert bits["fsdp_cpu_ram_efficient_loading"] is False
    whole, bits = (
        made(LaunchOptions(gpus=2, strategy="zero3"), tuning=t).config["deepspeed_config"]
        for t in ("lora", "qlora")
    )
    assert whole["zero3_init_flag"] is True
    assert bits["zero3_init_flag"] is False
    assert made(LaunchOptions(gpus=2), tuning="qlora").config == made(LaunchOptions(gpus=2)).config


# -- plans


def test_one_process_needs_no_launch(gpus: Callable[[int], None]) -> None:
    assert plan_launch(LaunchOptions(), "auto", values()) is None
    assert plan_launch(LaunchOptions(gpus=1), "auto", values()) is None
    assert made(LaunchOptions(gpus=1, strategy="zero3", offload="cpu")).processes == 1


def test_where_processes_run(gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert made(LaunchOptions(strategy="fsdp")).local == 8
    on_cpu = made(LaunchOptions(gpus=2), "cpu")
    assert (on_cpu.cpu, on_cpu.local, on_cpu.strategy) == (True, 2, "ddp")
    assert on_cpu.describe() == "2 processes on the CPU, ddp"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert on_cpu.environment() == {"ACCELERATE_USE_CPU": "true", "PYTHONSAFEPATH": "1"}
    gpus(0)
    assert made(LaunchOptions(gpus=3)).cpu


def test_several_machines(gpus: Callable[[int], None]) -> None:
    second = made(LaunchOptions(gpus=4, strategy="zero3", nodes=2, rank=1, main_address="first"))
    config = second.config
    assert (second.local, second.processes, second.rank) == (4, 8, 1)
    assert (config["num_machines"], config["machine_rank"]) == (2, 1)
    assert (config["main_process_ip"], config["main_process_port"]) == ("first", 29500)
    assert config["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard"
    assert (
        made(LaunchOptions(gpus=1, nodes=2, rank=0, main_address="first", main_port=7)).config[
            "main_process_port"
        ]
        == 7
    )


SLURM = {"SLURM_JOB_NUM_NODES": "3", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[03-05]"}
SKY = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
PET = {"PET_NNODES": "2", "PET_NODE_RANK": "0", "PET_MASTER_ADDR": "head", "PET_MASTER_PORT": "29400"}
INDEXED = {"NNODES": "2", "JOB_COMPLETION_INDEX": "1", "MASTER_ADDR": "job-0.job"}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (SLURM, (3, 1, "gpu03", None)),
        ({**SLURM, "SLURM_JOB_NODELIST": "a1,b[2-4]", "SLURM_TASKS_PER_NODE": "1(x3)"}, (3, 1, "a1", None)),
        ({**SLURM, "SLURM_JOB_NODELIST": "n[001,007]-ib"}, (3, 1, "n001-ib", None)),
        (SKY, (2, 1, "10.0.0.1", None)),
        (PET, (2, 0, "head", 29400)),
        (INDEXED, (2, 1, "job-0.job", None)),
    ],
)
def test_a_scheduler_tells_which_machine_this_is(
    variables: dict[str, str], told: tuple[int, int, str, int | None]
) -> None:
    """`auto` takes all of it; flags that are given go first."""
    found = plan.from_scheduler(LaunchOptions(gpus=4, nodes="auto"), variables)
    assert (found.nodes, found.rank, found.main_address, found.main_port) == told
    some = plan.from_scheduler(LaunchOptions(gpus=4, nodes="2", main_address="me"), variables)
    assert (some.nodes, some.rank, some.main_address) == ("2", told[1], "me")
    all_given = LaunchOptions(gpus=4, nodes=2, rank=0, main_address="me")
    assert plan.from_scheduler(all_given, variables) is all_given
    assert plan.from_scheduler(LaunchOptions(gpus=4), variables) == LaunchOptions(gpus=4)


@pytest.mark.parametrize(
    ("nodes", "variables", "said"),
    [
        ("auto", {}, "no scheduler says how many machines"),
        ("auto", {"SLURM_NODEID": "0"}, "no scheduler says"),
        ("auto", {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "8(x3)"}, "Slurm starts 8 tasks on each machine"),
        ("auto", {**SKY, "SKYPILOT_NODE_RANK": "x"}, "SKYPILOT_NODE_RANK is no number: 'x'"),
        ("two", {}, "--nodes two: a number, or auto"),
    ],
)
def test_what_no_scheduler_tells_is_an_error(nodes: str, variables: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan.from_scheduler(LaunchOptions(gpus=4, nodes=nodes), variables)


EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def sbatch() -> str:
    text = (EXAMPLES / "slurm.sbatch").read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.M))
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("2", "1", "8")
    return text.partition("srun")[2]


def job() -> str:
    service, made = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    spec = made["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": made["metadata"]["name"]}
    assert spec["completions"] == spec["parallelism"] == 2
    told = {one["name"]: one["value"] for one in container["env"]}
    assert told == {"NNODES": "2", "MASTER_ADDR": f"{made['metadata']['name']}-0.{pod['subdomain']}"}
    volumes = {one["name"] for one in pod["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes
    return str(container["command"][-1])


def sky() -> str:
    task = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
    assert task["num_nodes"] == 2
    assert subprocess.run(["bash", "-n"], input=task["run"], text=True, check=False).returncode == 0
    return str(task["run"])


@pytest.mark.parametrize(
    ("script", "variables", "address"),
    [
        (sbatch, {**SLURM, "SLURM_JOB_NUM_NODES": "2"}, "gpu03"),
        (job, INDEXED, "job-0.job"),
        (sky, {**SKY, "SKYPILOT_NUM_GPUS_PER_NODE": "8"}, "10.0.0.1"),
    ],
)
def test_the_examples_of_schedulers_are_commands_that_work(
    script: Callable[[], str],
    variables: dict[str, str],
    address: str,
    gpus: Callable[[int], None],
    cli: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    text = script()
    shared = {"RUN": str(tmp_path / "run"), "MODEL": "org/base", **variables}
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    [command] = re.findall(r"lcx train (.*)", text.replace("\\\n", " ").replace("\n", " "))
    command = command.replace("/shared/runs/in2", shared["RUN"]).replace("/shared/models/base", "org/base")
    ran = cli("train", *shlex.split(os.path.expandvars(command)), "--dry-run", "--json")
    assert ran.code == 0, ran.err
    [step] = ran.json["steps"]
    found = step["launch"]
    assert (found["processes"], found["here"], found["strategy"]) == (16, 8, "fsdp")
    assert (found["config"]["machine_rank"], found["config"]["main_process_ip"]) == (1, address)
    end = f"--gpus 8 --strategy fsdp --nodes 2 --rank {{}} --main-address {address} --main-port 29500"
    assert [one.endswith(end.format(rank)) for rank, one in enumerate(found["on_nodes"])] == [True, True]
    for rank, one in enumerate(found["on_nodes"]):  # each is a command of its own
        again = cli(*shlex.split(one)[1:], "--dry-run", "--json").json["steps"][0]["launch"]
        assert again["config"] == {**found["config"], "machine_rank": rank}
    said = cli("train", *shlex.split(os.path.expandvars(command)), "--dry-run").out
    assert f"  on machine 1:\n    {found['on_nodes'][1]}" in said


def config_file(tmp_path: Path, name: str = "fsdp", **changes: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(plan.preset_text(name)) | changes))
    return str(path)


def test_the_users_own_config(gpus: Callable[[int], None], tmp_path: Path) -> None:
    path = config_file(tmp_path, num_processes=4, mixed_precision="bf16", main_process_port=1234)
    planned = made(LaunchOptions(strategy=path))
    assert (planned.strategy, planned.processes) == ("fsdp", 4)
    assert planned.config["mixed_precision"] == "no", "the step's precision decides"
    assert planned.config["main_process_port"] == 1234
    assert made(LaunchOptions(strategy=path, gpus=2)).processes == 2
    two = config_file(tmp_path, num_processes=8, num_machines=2, machine_rank=1, main_process_ip="first")
    planned = made(LaunchOptions(strategy=two))
    assert (planned.local, planned.processes, planned.rank) == (4, 8, 1)
    assert planned.config["main_process_ip"] == "first"


# -- refusals

ZERO = {"distributed_type": "DEEPSPEED"}


@pytest.mark.parametrize(
    ("ask", "options", "what", "hint"),
    [
        (LaunchOptions(gpus=0), {}, "at least 1", ""),
        (LaunchOptions(gpus=2, strategy="zero4"), {}, "Did you mean 'zero", ""),
        (LaunchOptions(gpus=2, strategy="no/such.yaml"), {}, "cannot read", "lcx presets copy"),
        (LaunchOptions(gpus=2, offload="cpu"), {}, "needs a strategy", "--strategy fsdp"),
        (
            LaunchOptions(gpus=2, strategy="ddp", offload="cpu"),
            {},
            "does nothing with ddp",
            "--strategy fsdp --offload",
        ),
        (LaunchOptions(gpus=2, nodes=2), {}, "--rank and --main-address", "--rank 0 --main-address"),
        (LaunchOptions(gpus=2, nodes=2, rank=0), {}, "needs --main-address", ""),
        (LaunchOptions(gpus=2, nodes=2, rank=2, main_address="a"), {}, "--rank 2 of 2", "--nodes 3"),
        (LaunchOptions(gpus=2, rank=1), {}, "--rank 1 of 1", "--nodes 2"),
        (
            LaunchOptions(gpus=2, strategy="fsdp"),
            {"optimizer": "paged_adamw_32bit"},
            "paged_adamw_32bit",
            "adamw_torch",
        ),
        (
            LaunchOptions(gpus=2, strategy="fsdp"),
            {"optimizer": "adamw_bnb_8bit"},
            "does not work with FSDP",
            "adamw_torch",
        ),
        (
            LaunchOptions(gpus=2, strategy="zero2", offload="cpu"),
            {"optimizer": "adamw_8bit"},
            "--offload cpu",
            "adamw_torch",
        ),
        (LaunchOptions(gpus=2, strategy="zero3", offload="cpu"), {"tuning": "qlora"}, "4-bit", "tuning=lora"),
        (LaunchOptions(gpus=2, strategy="fsdp", offload="cpu"), {"tuning": "qlora"}, "4-bit", "tuning=lora"),
        (LaunchOptions(gpus=2, strategy="fsdp"), {"precision": "fp16"}, "fp16", "train.precision=bf16"),
        (
            LaunchOptions(gpus=2, strategy="zero2"),
            {"reference": "cached"},
            "beforehand",
            "train.reference=model",
        ),
        (LaunchOptions(gpus=2, strategy="fsdp"), {"reference": "cached"}, "beforehand", "--strategy ddp"),
    ],
)
def test_refused(
    ask: LaunchOptions, options: dict[str, Any], what: str, hint: str, gpus: Callable[[int], None]
) -> None:
    with pytest.raises(UsageError) as bad:
        plan_launch(ask, "auto", values(**options))
    assert what in bad.value.what
    assert hint in bad.value.hint


@pytest.mark.parametrize(
    ("preset", "changes", "what"),
    [
        ("fsdp", {"parallelism_config": {"parallelism_config_cp_size": 2}}, "context parallelism"),
        ("fsdp", {"parallelism_config": {"parallelism_config_tp_size": 2}}, "tensor parallelism"),
        ("zero3", {"parallelism_config": {"parallelism_config_sp_size": 4}}, "sequence parallelism"),
        ("fsdp", {"fsdp_config": {"fsdp_version": 1}}, "FSDP1"),
        ("fsdp", {"fsdp_config": {"fsdp_sharding_strategy": "FULL_SHARD"}}, "FSDP1"),
        ("fsdp", {"mixed_precision": "fp8"}, "fp8"),
        ("fsdp", {"distributed_type": "MEGATRON_LM"}, "MEGATRON_LM"),
        ("fsdp", {"distributed_type": None}, "distributed_type None is none"),
        ("zero3", {"deepspeed_config": {"zero_stage": 3}}, "no model would be saved"),
        ("fsdp", {"num_processes": "many"}, "not a number"),
    ],
)
def test_refused_configs(
    preset: str, changes: dict[str, Any], what: str, gpus: Callable[[int], None], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=what) as bad:
        plan_launch(LaunchOptions(strategy=config_file(tmp_path, preset, **changes)), "auto", values())
    assert bad.value.exit_code == 2


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"scheduler": {"type": "WarmupLR"}}, "section 'scheduler'"),
        ({"optimizer": {"type": "AdamW"}}, "section 'optimizer'"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor parallelism"),
        ({"sequence_parallel_size": 2}, "sequence parallelism"),
    ],
)
def test_deepspeed_files_are_looked_into(
    section: dict[str, Any], what: str, gpus: Callable[[int], None], tmp_path: Path
) -> None:
    gathers = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    file = tmp_path / "ds.json"
    named = {"deepspeed_config_file": str(file)}
    path = config_file(tmp_path, "zero3", deepspeed_config=named)
    file.write_text(json.dumps({"zero_optimization": gathers}))
    assert made(LaunchOptions(strategy=path)).strategy == "zero3"
    file.write_text(json.dumps({"zero_optimization": gathers, **section}))
    with pytest.raises(UsageError, match=what):
        plan_launch(LaunchOptions(strategy=path), "auto", values())
    file.unlink()
    with pytest.raises(UsageError, match="cannot read the DeepSpeed config"):
        plan_launch(LaunchOptions(strategy=path), "auto", values())


def test_what_the_machine_lacks(gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(2)
    with pytest.raises(MissingError, match="--gpus 4: this machine lends 2 GPUs") as bad:
        plan_launch(LaunchOptions(gpus=4), "auto", values())
    assert bad.value.hint == "--gpus 2"
    with pytest.raises(UsageError, match="GPU of its own") as other:
        plan_launch(LaunchOptions(gpus=2), "cuda:1", values())
    assert "CUDA_VISIBLE_DEVICES=1" in other.value.hint
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="DeepSpeed") as bad:
        plan_launch(LaunchOptions(gpus=2, strategy="zero3"), "auto", values())
    assert "lcx[deepspeed]" in bad.value.hint
    monkeypatch.setattr(plan, "find_spec", lambda name: object())
    gpus(0)
    with pytest.raises(MissingError, match="sees no GPU"):
        plan_launch(LaunchOptions(gpus=2), "cuda", values())
    with pytest.raises(UsageError, match="no GPU here to count") as none:
        plan_launch(LaunchOptions(strategy="fsdp"), "auto", values())
    assert "--gpus 2" in none.value.hint
    for strategy in ("zero2", "zero3"):
        with pytest.raises(UsageError, match="DeepSpeed does not run on the CPU"):
            plan_launch(LaunchOptions(gpus=2, strategy=strategy), "auto", values())
    with pytest.raises(UsageError, match="on the CPU already"):
        plan_launch(LaunchOptions(gpus=2, strategy="fsdp", offload="cpu"), "auto", values())


def test_no_launch_inside_a_launch(gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="by a launcher already"):
        plan_launch(LaunchOptions(gpus=2), "auto", values())
    assert launched() == (0, 2, 0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None, "a scheduler may set this for one process"


@pytest.mark.slow
def test_gpus_are_counted_by_pytorch_in_a_process_of_its_own() -> None:
    import torch

    from lcx.training.plan import count_gpus

    assert count_gpus() == torch.cuda.device_count()


# -- the command line


@pytest.fixture
def lcx(
    cli: Callable[..., Ran], gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    return lambda line: cli(*line.split())


def test_dry_run_shows_the_launch(lcx: Callable[[str], Ran]) -> None:
    line = "train --recipe in2-tiny --gpus 2 --strategy fsdp --model tiny --seed 3 --set train.batch=64 --dry-run"
    [step] = lcx(f"{line} --json").json["steps"]
    launch = step["launch"]
    assert (launch["processes"], launch["device"], launch["strategy"]) == (2, "cuda", "fsdp")
    assert launch["config"]["fsdp_config"]["fsdp_version"] == 2
    assert launch["command"] == (
        "lcx train --recipe in2-tiny --step train --run runs/in2-tiny --set train.batch=64 --model tiny --seed 3"
    )
    shown = lcx(line).out
    assert "launch: 2 processes on GPUs, fsdp" in shown
    assert "fsdp_version: 2" in shown
    both = lcx("run --recipe in2-tiny --gpus 2 --seed 3 --set train.batch=64 --dry-run --json").json["steps"]
    assert [step["step"] for step in both if "launch" in step] == ["train"]
    assert "--seed 3" in next(step for step in both if "launch" in step)["launch"]["command"]
    assert not Path("runs").exists()


def test_launch_options_are_for_training_only(lcx: Callable[[str], Ran]) -> None:
    for stage in ("synth", "eval", "score"):
        ran = lcx(f"{stage} --recipe in2-tiny --strategy fsdp")
        assert ran.code == 2
        assert "no such option '--strategy'" in ran.err
    ran = lcx("run --recipe in2-tiny --to synth --strategy fsdp --gpus 2")
    assert ran.code == 2
    assert "are for train steps" in ran.err
    ran = lcx("train --recipe in2-tiny --gpus 2 --strategy zero3 --device cpu")
    assert ran.code == 2
    assert "DeepSpeed does not run on the CPU" in ran.err


def test_a_training_of_a_plugins_own_runs_in_one_process(
    lcx: Callable[[str], Ran], toy_plugins: Any, toy_recipe: Path
) -> None:
    ran = lcx(f"train --recipe {toy_recipe} --gpus 2")
    assert ran.code == 2
    assert "step 'train' trains in one process" in ran.err


def test_what_lacks_is_said_before_any_process_starts(
    lcx: Callable[[str], Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("a process was started"))
    ran = lcx("train --recipe in2-tiny --gpus 2 --device cpu")
    assert ran.code == 4
    assert "needs the data of step 'synth'" in ran.err


def test_presets_are_listed_shown_and_copied(lcx: Callable[[str], Ran]) -> None:
    assert [row["name"] for row in lcx("presets list --json").json["presets"]] == plan.preset_names()
    assert lcx("presets list").out.startswith("preset")
    assert lcx("presets show zero3").out == plan.preset_text("zero3")
    assert lcx("presets copy fsdp mine.yaml").code == 0
    assert Path("mine.yaml").read_text() == plan.preset_text("fsdp")
    assert lcx("presets copy fsdp mine.yaml").code == 2
    assert lcx("presets copy ddp mine.yaml --force").code == 0
    assert lcx("presets copy fsdp mine.txt").code == 2
    ran = lcx("presets show zero")
    assert ran.code == 2
    assert "Did you mean" in ran.err
    ran = lcx("train --recipe in2-tiny --strategy mine.yaml --dry-run --json")
    assert ran.json["steps"][0]["launch"]["processes"] == 8


# -- what processes leave behind


def ended(
    folder: Path, outcomes: dict[int, dict[str, Any]], ends: dict[int, int] | None = None, asked: int = 0
) -> dict[str, Any]:
    for rank, outcome in outcomes.items():
        launch.leave(folder, rank, outcome)
    if ends is not None:
        (folder / "host.json").write_text(json.dumps({"ends": ends}))
    (folder / "worker-1.log").write_text("first\nCUDA error: no luck\n\n")
    planned = plan.LaunchPlan({}, "ddp", 2, 2, 0, True)
    return launch._result(planned, folder, asked)


def failure(what: str, expected: bool, code: int = 1) -> dict[str, Any]:
    error = {"error": what, "why": "w", "hint": "h", "exit_code": code}
    return {"state": "failed", "expected": expected, "error": error}


DONE = {"state": "done", "report": {"step": "train"}}
STOPPED = {"state": "stopped"}


def test_the_first_process_tells_what_was_done(tmp_path: Path) -> None:
    assert ended(tmp_path, {0: DONE, 1: {"state": "done", "report": {"step": "other"}}}) == {"step": "train"}
    assert ended(tmp_path, {}, {1: -signal.SIGABRT}) == {"step": "train"}, (
        "an exit after the work is nobody's loss"
    )


def test_an_error_in_words_is_the_cause(tmp_path: Path) -> None:
    with pytest.raises(LcxError) as bad:
        ended(tmp_path, {0: failure("connection closed", False), 1: failure("no data", True, 4)})
    assert (bad.value.what, bad.value.why, bad.value.hint, bad.value.exit_code) == ("no data", "w", "h", 4)


def test_else_the_process_that_a_signal_ended(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="process 1 of 2 was killed"):
        ended(tmp_path, {0: failure("connection closed", False)}, {0: 1, 1: -signal.SIGKILL})
    with pytest.raises(LcxError, match="process 1 of 2 ended by SIGSEGV") as bad:
        ended(tmp_path, {}, {0: -signal.SIGTERM, 1: -signal.SIGSEGV})
    assert bad.value.why == "CUDA error: no luck"


def test_else_the_error_that_came_first(tmp_path: Path) -> None:
    launch.leave(tmp_path, 1, failure("the bug", False))
    with pytest.raises(LcxError, match="the bug"):
        ended(tmp_path, {0: failure("connection closed", False)}, {0: -signal.SIGTERM, 1: 1})


def test_stopping_is_no_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ended(tmp_path, {0: STOPPED, 1: STOPPED})
    with pytest.raises(KeyboardInterrupt):
        ended(tmp_path, {0: failure("connection closed", False), 1: STOPPED}, asked=1)
    with pytest.raises(KeyboardInterrupt):
        ended(tmp_path / "none", {0: STOPPED}, asked=2)


def test_rank_0_goes_first() -> None:
    barrier, order = threading.Barrier(2), []

    def work(rank: int) -> None:
        ctx = Context(rank=rank, world_size=2, wait=lambda: (barrier.wait(10), None)[1])
        with ctx.main_first():
            order.append(rank)

    second = threading.Thread(target=work, args=(1,))
    second.start()
    work(0)
    second.join(10)
    assert order == [0, 1]
    with Context().main_first():
        pass


@pytest.mark.parametrize(
    ("files", "saved"),
    [
        (["optimizer.pt", "rng_state_0.pth"], "ddp"),
        (["pytorch_model_fsdp.bin", "optimizer.bin"], "fsdp"),
        (["pytorch_model_fsdp_0/x.distcp"], "fsdp"),
        (
            [
                "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt",
                "global_step4/mp_rank_00_model_states.pt",
            ],
            "zero2",
        ),
        (
            [
                "global_step4/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
                "global_step4/zero_pp_rank_0_mp_rank_00_model_states.pt",
            ],
            "zero3",
        ),
    ],
)
def test_checkpoints_know_their_strategy(
    files: list[str], saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert sharding.saved_by(tmp_path) == saved
    monkeypatch.setattr(sharding, "strategy", lambda: saved)
    if saved.startswith("zero"):
        sharding.check_resume(tmp_path, 1)
        with pytest.raises(UsageError, match="saved by 1 processes, and these are 2") as bad:
            sharding.check_resume(tmp_path, 2)
        assert "--gpus 1" in bad.value.hint
    else:
        sharding.check_resume(tmp_path, 5)
    monkeypatch.setattr(sharding, "strategy", lambda: "ddp" if saved != "ddp" else "fsdp")
    with pytest.raises(UsageError, match="was saved by") as bad:
        sharding.check_resume(tmp_path, 1)
    assert "--force" in bad.value.hint


# -- two processes


@pytest.fixture(scope="module")
def begun(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return prepare(lcx_program, tmp_path_factory.mktemp("begun"))


def test_two_processes_equal_one(begun: Start, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """40 contexts, 8 a step: the same batches, whoever computes them."""

    def alone(name: str) -> Any:
        return cli(*begun.words(tmp_path / name, "--device", "cpu", epochs="1")[1:])

    two = begun.train(tmp_path / "two", "--gpus", "2", "--device", "cpu", "--json", epochs="1")
    assert two.returncode == 0, two.stderr
    report = json.loads(two.stdout)  # one object, and from one process only
    assert report["state"] == "done"
    assert report["counts"]["steps"] == len(losses(tmp_path / "two")) == 5
    assert report["next"]
    assert two.stderr.count("40 contexts") == 1
    assert "Traceback" not in two.stderr
    manifest = json.loads((tmp_path / "two/manifest.json").read_text())["steps"]["train"]
    assert manifest["state"] == "done"
    assert manifest["extra"]["processes"] == 2
    one = alone("one")
    assert one.code == 0, one.err
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert worst(tmp_path / "two", tmp_path / "one") < 1e-5
    assert "already done" in alone("two").err, "the number of processes is not part of what was done"
    assert os.listdir(tmp_path / "two/train/model")


# -- two machines


def namespaces(name: str) -> list[list[str]]:
    """The commands that lay a cable between two network namespaces, with an address at either end."""
    a, b = f"{name}a", f"{name}b"
    words = [
        f"netns add {a}",
        f"netns add {b}",
        f"link add eth0 netns {a} type veth peer name eth0 netns {b}",
    ]
    for space, address in ((a, "10.77.0.1/24"), (b, "10.77.0.2/24")):
        words += [f"-n {space} addr add {address} dev eth0"]
        words += [f"-n {space} link set {device} up" for device in ("eth0", "lo")]
    return [["ip", *one.split()] for one in words]


@pytest.fixture
def two_machines() -> Iterator[list[str]]:
    """Two network namespaces, which only reach each other, and only by the cable."""
    name = f"lcx{os.getpid()}"
    try:
        for words in namespaces(name):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {' '.join(words)}: {done.stderr.strip()}")
        yield [f"{name}a", f"{name}b"]
    except FileNotFoundError:
        pytest.skip("no network namespaces here: there is no program ip")
    finally:
        for part in "ab":
            with suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", f"{name}{part}"], capture_output=True, check=False)


@pytest.mark.slow
def test_two_machines_equal_one_process(
    begun: Start, tmp_path: Path, cli: Callable[..., Any], two_machines: list[str]
) -> None:
    """As Slurm would start it, with a process on each machine that meets the other over the network."""
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "10.77.0.1,10.77.0.2"}
    options = ("--gpus", "1", "--nodes", "auto", "--device", "cpu", "--json")
    words = begun.words(tmp_path / "two", *options, epochs="1")
    machines = [
        subprocess.Popen(
            ["ip", "netns", "exec", space, *words],
            env=variables(tmp_path / "two") | slurm | {"SLURM_NODEID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, space in enumerate(two_machines)
    ]
    try:
        ends = [machine.communicate(timeout=300) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], [err[-2000:] for _, err in ends]
    assert json.loads(ends[0][0])["counts"]["steps"] == len(losses(tmp_path / "two")) == 5
    assert ends[1][0] == "", "only the first machine tells"
    manifest = json.loads((tmp_path / "two/manifest.json").read_text())["steps"]["train"]
    assert manifest["extra"]["processes"] == 2
    one = cli(*begun.words(tmp_path / "one", "--device", "cpu", epochs="1")[1:])
    assert one.code == 0, one.err
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert worst(tmp_path / "two", tmp_path / "one") < 1e-5
