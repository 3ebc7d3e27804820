"""What a launch of several processes is going to be: how many, on what, by which accelerate config; or why not.

First the configs (presets that ship with lcx, and the user's files), then the plan, then the launches that are known
not to work: those are refused before anything is loaded, each with what to do instead. Torch-free.
"""

from __future__ import annotations

import copy
import importlib.resources
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from lcx.errors import MissingError, UsageError, suggestion
from lcx.process import cores, launched
from lcx.yamls import read_yaml_file

Config = dict[str, Any]
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
"""Strategies that --strategy may name; it may name a file too."""
FOR_QLORA = {"fsdp": "fsdp-qlora", "zero3": "zero3-qlora"}
"""Presets that 4-bit weights need others for."""


def preset_names() -> list[str]:
    """Names of the presets that ship with lcx."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder() if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """A preset's file. Raises UsageError for a name that is none."""
    for file in _folder():
        if file.name == f"{name}.yaml":
            return str(file.read_text(encoding="utf-8"))
    raise UsageError(
        f"no preset '{name}'. {suggestion(name, preset_names())}".rstrip(),
        why=f"There are {', '.join(preset_names())}.",
    )


def preset_summary(name: str) -> str:
    """The first sentence of a preset's own comment."""
    lines = [line.removeprefix("# ") for line in preset_text(name).splitlines() if line.startswith("# ")]
    return " ".join(lines).partition(". ")[0].rstrip(".")


def _folder() -> Iterator[Any]:
    return (importlib.resources.files("lcx.training") / "presets").iterdir()


def find_config(strategy: str, *, qlora: bool = False) -> Config:
    """The config of a strategy: a preset by its name, or the user's file by its path. Raises UsageError."""
    if strategy in preset_names():
        return dict(yaml.safe_load(preset_text(FOR_QLORA.get(strategy, strategy) if qlora else strategy)))
    if strategy.endswith((".yaml", ".yml", ".json")) or "/" in strategy:
        return read_config(Path(strategy).expanduser())
    raise UsageError(
        f"no strategy '{strategy}'. {suggestion(strategy, preset_names())}".rstrip(),
        why=f"There are {', '.join(preset_names())}; or a path to an accelerate config that ends in .yaml.",
    )


def read_config(path: Path) -> Config:
    """An accelerate config from a YAML or JSON file. Raises UsageError for what is none."""
    try:
        read_yaml_file(path)  # refuses what is none, and what would fill the memory
        found = yaml.safe_load(
            path.read_text(encoding="utf-8")
        )  # accelerate's own reading, where `no` is false
    except OSError as bad:
        raise UsageError(
            f"cannot read the accelerate config {path}",
            why=bad.strerror or str(bad),
            hint="lcx presets copy fsdp mine.yaml",
        ) from None
    if not isinstance(found, dict) or "distributed_type" not in found:
        raise UsageError(
            f"{path} is not an accelerate config",
            why="It names no distributed_type.",
            hint="lcx presets copy fsdp mine.yaml",
        )
    return found


def strategy_of(config: Mapping[str, Any]) -> str:
    """ddp, fsdp, zero1, zero2 or zero3 for a config; for others its distributed_type in small letters."""
    kind = str(config.get("distributed_type", "")).upper()
    if kind == "DEEPSPEED":
        return f"zero{zero_stage(config)}"
    return {"FSDP": "fsdp", "MULTI_GPU": "ddp", "MULTI_CPU": "ddp", "NO": "ddp"}.get(kind, kind.lower())


def deepspeed_file(config: Mapping[str, Any]) -> Config:
    """The DeepSpeed JSON that a config names, or an empty dict. Raises UsageError where it cannot be read."""
    named = (config.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if not named:
        return {}
    try:
        found = read_yaml_file(Path(str(named)).expanduser()).value
    except OSError as bad:
        raise UsageError(
            f"cannot read the DeepSpeed config {named}", why=" ".join(str(bad).split())
        ) from None
    return dict(found) if isinstance(found, dict) else {}


def zero_stage(config: Mapping[str, Any]) -> int:
    """ZeRO's stage by an accelerate config or the DeepSpeed file that it names; accelerate's own default is 2."""
    own = config.get("deepspeed_config") or {}
    stage = deepspeed_file(config).get("zero_optimization", {}).get("stage", own.get("zero_stage", 2))
    return int(stage)


def adapt_config(
    config: Mapping[str, Any],
    *,
    processes: int,
    nodes: int,
    rank: int,
    address: str | None,
    port: int | None,
    cpu: bool,
    offload: bool,
) -> Config:
    """The config of one launch: its processes and machines, CPU or GPU, and where the states rest.

    `processes` counts those of all nodes. The precision is the step's business, so the config's is switched off.
    """
    made = copy.deepcopy(dict(config))
    made |= {
        "compute_environment": "LOCAL_MACHINE",
        "num_processes": processes,
        "num_machines": nodes,
        "machine_rank": rank,
        "mixed_precision": "no",
        "use_cpu": cpu,
        "same_network": True,
        "rdzv_backend": "static",
    }
    if str(made["distributed_type"]).upper() in ("MULTI_CPU", "NO"):
        # accelerate starts one process for these, unless MPI is there; its GPU launcher starts any number
        made["distributed_type"] = "MULTI_GPU"
    if nodes > 1:
        made |= {"main_process_ip": address, "main_process_port": port}
    else:
        made |= {"main_process_ip": None, "main_process_port": port or 0}  # 0: any that is free
    if offload:
        kind = strategy_of(made)
        if kind == "fsdp":
            made["fsdp_config"] = {**made.get("fsdp_config", {}), "fsdp_offload_params": True}
        else:
            parts = {"offload_optimizer_device": "cpu"}
            if kind == "zero3":
                parts["offload_param_device"] = "cpu"
            made["deepspeed_config"] = {**made.get("deepspeed_config", {}), **parts}
    return {key: value for key, value in made.items() if value is not None}


HOST = "lcx.training.launch"
"""Module of the process that starts the workers."""
WORKER = "lcx"
"""Module of the workers: `lcx.__main__` sees that it is one of them."""
PORT = 29500
"""Where processes of several machines meet, unless --main-port says otherwise."""


@dataclass(frozen=True)
class LaunchOptions:
    """The launch options of a command line; None or False for what was not given."""

    gpus: int | None = None
    strategy: str | None = None
    offload: str | None = None
    nodes: int | str | None = None
    """A number, or `auto`."""
    rank: int | None = None
    main_address: str | None = None
    main_port: int | None = None

    def given(self) -> bool:
        """True if any launch flag (--gpus, --strategy, --nodes, ...) was given."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Scheduler:
    """The variables by which a scheduler tells a process which of how many machines it is on."""

    name: str
    count: tuple[str, ...]
    rank: tuple[str, ...]
    addresses: tuple[str, ...]
    port: tuple[str, ...] = ()


SCHEDULERS = (
    Scheduler("Slurm", ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"), ("SLURM_NODEID",), ("SLURM_JOB_NODELIST",)),
    Scheduler("SkyPilot", ("SKYPILOT_NUM_NODES",), ("SKYPILOT_NODE_RANK",), ("SKYPILOT_NODE_IPS",)),
    Scheduler("torchrun", ("PET_NNODES",), ("PET_NODE_RANK",), ("PET_MASTER_ADDR",), ("PET_MASTER_PORT",)),
    Scheduler(
        "the environment",
        ("NNODES",),
        ("NODE_RANK", "JOB_COMPLETION_INDEX"),
        ("MASTER_ADDR",),
        ("MASTER_PORT",),
    ),
)
"""In the order in which they are asked; Kubeflow's trainer sets torchrun's, Kubernetes' indexed Jobs the last."""
AUTO = "auto"


def from_scheduler(options: LaunchOptions, environment: Mapping[str, str] = os.environ) -> LaunchOptions:
    """The options with what the scheduler knows of the machines, where `--nodes` asks for it and leaves it open.

    `--nodes auto` takes their number from it, too. Raises UsageError where nothing tells it.
    """
    if options.nodes is None or (options.nodes != AUTO and _number_of(options.nodes) < 2):
        return options
    given = (options.rank, options.main_address)
    if options.nodes != AUTO and None not in given:
        return options
    for one in SCHEDULERS:
        count, rank = _first(one.count, environment), _first(one.rank, environment)
        if rank is None or (count is None and options.nodes == AUTO):
            continue
        if one.name == "Slurm":
            _one_task_a_node(environment)
        listed = first_host(_first(one.addresses, environment) or "")
        port = _first(one.port, environment)
        return replace(
            options,
            nodes=_as_number(one.count, count) if options.nodes == AUTO else options.nodes,
            rank=_as_number(one.rank, rank) if options.rank is None else options.rank,
            main_address=options.main_address or listed or None,
            main_port=options.main_port or (_as_number(one.port, port) if port else None),
        )
    if options.nodes != AUTO:
        return options
    raise UsageError(
        "--nodes auto: no scheduler says how many machines there are",
        why="Neither Slurm's variables are set, nor SkyPilot's, torchrun's, or NNODES and NODE_RANK.",
        hint="--nodes K --rank R --main-address HOST on each machine",
    )


def _one_task_a_node(environment: Mapping[str, str]) -> None:
    """Raise UsageError where srun started several tasks on a node: each would start all of its processes."""
    tasks = _first(("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"), environment) or "1"
    found = re.match(r"\d+", tasks)
    if found and int(found[0]) > 1:
        raise UsageError(
            f"Slurm starts {found[0]} tasks on each machine",
            why="lcx starts the processes of a machine itself, and each of the tasks would start all of them.",
            hint="srun --ntasks-per-node=1, with --gpus N for the processes of a machine",
        )


def first_host(listed: str) -> str:
    """The first of the hosts in a list: Slurm's `node[03-05,9],big1`, blanks, commas or lines between."""
    found = re.match(r"\s*([^\s,\[]*)(?:\[([^\],-]*)[^\]]*\]([^\s,\[]*))?", listed)
    return "".join(part or "" for part in found.groups()) if found else ""


INTERFACE = "GLOO_SOCKET_IFNAME"
"""Variable: the network interface by which processes on CPUs, and those that wait for each other, meet."""


def interface_towards(host: str, port: int) -> str:
    """The network interface by which a host is reached; empty where that is not known, or it is this machine alone."""
    import fcntl
    import socket
    import struct

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # sends nothing
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                asked = struct.pack("256s", name.encode()[:15])
                try:
                    found = fcntl.ioctl(probe.fileno(), 0x8915, asked)  # SIOCGIFADDR
                except OSError:
                    continue
                if socket.inet_ntoa(found[20:24]) == own and not own.startswith("127."):
                    return name
    except OSError:
        pass
    return ""


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _as_number(names: tuple[str, ...], text: str | None) -> int:
    try:
        return int(str(text))
    except ValueError:
        raise UsageError(f"{' or '.join(names)} is no number: {text!r}") from None


def _number_of(nodes: int | str) -> int:
    """The number that --nodes gives. Raises UsageError for what is none."""
    try:
        return int(nodes)
    except ValueError:
        raise UsageError(f"--nodes {nodes}: a number, or {AUTO} for the scheduler's") from None


@dataclass(frozen=True)
class LaunchPlan:
    """The processes of one launch: `local` on this machine, of `processes` in all; `rank` is this machine's number."""

    config: Mapping[str, Any]
    strategy: str
    local: int
    processes: int
    rank: int
    cpu: bool

    def argv(self, config: Path) -> list[str]:
        """The launcher's command line for a config file."""
        # -P: no module is taken from the working folder, which may be a stranger's
        return [sys.executable, "-P", "-m", HOST, "--config_file", str(config), "-m", WORKER]

    def environment(self) -> dict[str, str]:
        """Variables that the processes need besides this process's variables."""
        extra = {"PYTHONSAFEPATH": "1"}  # the launcher starts Python anew, without -P
        extra |= {"ACCELERATE_USE_CPU": "true"} if self.cpu else {}
        if self.nodes > 1 and INTERFACE not in os.environ:
            # gloo would take the one that this machine's name leads to, which others may not reach
            towards = interface_towards(str(self.config["main_process_ip"]), self.config["main_process_port"])
            extra |= {INTERFACE: towards} if towards else {}
        if "OMP_NUM_THREADS" not in os.environ:
            extra["OMP_NUM_THREADS"] = str(threads_each(self.local))
        return extra

    @property
    def nodes(self) -> int:
        """How many machines take part."""
        return self.processes // self.local

    def on_nodes(self, strategy: str | None, offload: str | None) -> list[list[str]]:
        """The launch options of each machine's command, where there are several."""
        if self.nodes < 2:
            return []
        alike = ["--gpus", str(self.local)]
        alike += ["--strategy", strategy] if strategy else []
        alike += ["--offload", offload] if offload else []
        meet = ["--main-address", str(self.config["main_process_ip"])]
        meet += ["--main-port", str(self.config["main_process_port"])]
        return [
            [*alike, "--nodes", str(self.nodes), "--rank", str(rank), *meet] for rank in range(self.nodes)
        ]

    def describe(self) -> str:
        """One line for people."""
        where = "the CPU" if self.cpu else ("GPUs" if self.local > 1 else "a GPU")
        here = "" if self.local == self.processes else f" of {self.processes}"
        count = f"{self.local}{here} process{'es' if self.processes > 1 else ''}"
        return f"{count} on {where}, {self.strategy}"

    def as_dict(self) -> dict[str, Any]:
        """The plan as --dry-run --json prints it."""
        return {
            "processes": self.processes,
            "here": self.local,
            "device": "cpu" if self.cpu else "cuda",
            "strategy": self.strategy,
            "config": dict(self.config),
        }


def plan_launch(
    options: LaunchOptions, device: str, values: Mapping[str, Any], *, step: str = "train"
) -> LaunchPlan | None:
    """The plan of a train step with these settings, or None where one process in this one will do.

    Raises UsageError or MissingError, before anything is loaded, for what cannot work.
    """
    if not options.given():
        return None
    if launched() is not None:
        raise UsageError(
            "this process was started by a launcher already",
            why="WORLD_SIZE and LOCAL_RANK are set.",
            hint="Leave out --gpus, --strategy and their like, or the launcher.",
        )
    options = from_scheduler(options)
    check_options(options, device)
    config = find_config(options.strategy or "ddp", qlora=values.get("tuning") == "qlora")
    own = options.strategy is not None and options.strategy not in preset_names()
    if own:
        check_file(config, str(options.strategy))
    nodes = _number_of(options.nodes or (_number(config, "num_machines") if own else 0) or 1)
    cpu, local = _place(options, device, config, nodes, own)
    if local == nodes == 1 and options.strategy is None:
        return None
    made = adapt_config(
        config,
        processes=local * nodes,
        nodes=nodes,
        rank=options.rank if options.rank is not None else (_number(config, "machine_rank") if own else 0),
        address=options.main_address or (config.get("main_process_ip") if own else None),
        port=options.main_port
        or (_number(config, "main_process_port") if own else 0)
        or (PORT if nodes > 1 else None),
        cpu=cpu,
        offload=options.offload is not None,
    )
    plan = LaunchPlan(made, strategy_of(made), local, local * nodes, int(made["machine_rank"]), cpu)
    check_config(plan.config, str(options.strategy or "ddp"), options)
    check_settings(plan, values, step)
    return plan


def _place(
    options: LaunchOptions, device: str, config: Mapping[str, Any], nodes: int, own: bool
) -> tuple[bool, int]:
    """True if the processes run on the CPU, and the number that starts here. Raises MissingError for GPUs that lack."""
    found = 0 if device == "cpu" or (own and config.get("use_cpu")) else count_gpus()
    asked = options.gpus or (_number(config, "num_processes") // nodes if own else 0)
    if device.startswith("cuda") and not found:
        raise MissingError(
            "device 'cuda': this PyTorch sees no GPU", hint="Leave --device at auto, or take cpu."
        )
    if not found:
        if not asked:
            raise UsageError(
                "there is no GPU here to count",
                hint="--gpus 2 runs two processes on the CPU, for trying things",
            )
        return True, asked
    if asked > found:
        raise MissingError(
            f"--gpus {asked}: this machine lends {found} GPU{'s' if found > 1 else ''}",
            why=_visible(),
            hint=f"--gpus {found}",
        )
    return False, asked or found


def _visible() -> str:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"CUDA_VISIBLE_DEVICES={shlex.quote(shown)}" if shown is not None else ""


def _number(config: Mapping[str, Any], key: str) -> int:
    try:
        return max(0, int(config.get(key) or 0))
    except (TypeError, ValueError):
        raise UsageError(f"{key} in the accelerate config is not a number: {config[key]!r}") from None


KINDS = {"MULTI_GPU", "MULTI_CPU", "NO", "FSDP", "DEEPSPEED"}
"""accelerate's ways of running processes that the trainers here know."""
SPLITS = {"cp": "context", "sp": "sequence", "tp": "tensor"}
"""Ways to cut one row, or one weight matrix, over several processes."""
COPY = "lcx presets copy {} mine.yaml shows one that works"


def check_options(options: LaunchOptions, device: str) -> None:
    """Options that contradict each other or lack one another."""
    if options.gpus is not None and options.gpus < 1:
        raise UsageError(f"--gpus {options.gpus}: at least 1")
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device} with several processes: each takes a GPU of its own",
            hint=f"CUDA_VISIBLE_DEVICES={device.partition(':')[2]} before the command chooses cards",
        )
    nodes = _number_of(1 if options.nodes is None else options.nodes)
    if nodes < 1:
        raise UsageError(f"--nodes {options.nodes}: at least 1")
    if nodes > 1:
        lacking = [
            name
            for name, value in (("--rank", options.rank), ("--main-address", options.main_address))
            if value is None
        ]
        if lacking:
            raise UsageError(
                f"--nodes {nodes} needs {' and '.join(lacking)}",
                why="Each machine runs the same command with its own number, and meets the others at machine 0. No "
                "scheduler's variables (Slurm, SkyPilot, torchrun, NODE_RANK and MASTER_ADDR) tell them.",
                hint=f"--nodes {nodes} --rank 0 --main-address HOST on the first machine, --rank 1 on the next",
            )
        if options.gpus is None:
            raise UsageError("--nodes needs --gpus, the number on each machine")
    if options.rank is not None and not 0 <= options.rank < nodes:
        raise UsageError(
            f"--rank {options.rank} of {nodes} machine{'s' if nodes > 1 else ''}",
            hint=f"--rank counts machines from 0; --nodes says how many: --nodes {options.rank + 1} or more",
        )
    if options.offload is not None and options.strategy is None:
        raise UsageError(
            "--offload cpu needs a strategy that shares states", hint="--strategy fsdp, or zero3"
        )


def check_file(config: Mapping[str, Any], name: str) -> None:
    """Refuse what a user's file asks for and a launch would replace without a word. Raises UsageError."""
    if str(config.get("mixed_precision", "no")).lower() == "fp8":
        raise UsageError(
            f"{name}: mixed_precision fp8 is not supported",
            why="The step's own precision decides, and it knows bf16, fp32 and fp16.",
            hint="mixed_precision: 'no' in the file; --set train.precision=bf16",
        )


def check_config(config: Mapping[str, Any], name: str, options: LaunchOptions) -> None:
    """A config that accelerate would accept, but that the training here cannot use."""
    kind = str(config.get("distributed_type", "")).upper()
    strategy = strategy_of(config)
    if kind not in KINDS:
        raise UsageError(
            f"{name}: distributed_type {config.get('distributed_type')} is none that lcx can train with",
            why=f"It knows {', '.join(sorted(KINDS))}.",
            hint=COPY.format("fsdp"),
        )
    refuse_splits(config, name)
    if options.offload is not None and strategy == "ddp":
        raise UsageError(
            "--offload cpu does nothing with ddp",
            why="Every GPU works on its own whole copy of the states; there is no part that could rest elsewhere.",
            hint="--strategy fsdp --offload cpu, or --strategy zero3 --offload cpu",
        )
    if strategy == "fsdp":
        _check_fsdp(config.get("fsdp_config") or {}, name)
    if strategy.startswith("zero"):
        _check_deepspeed(config, name)


def refuse_splits(config: Mapping[str, Any], name: str) -> None:
    """Context, sequence and tensor parallelism. Raises UsageError."""
    sizes = {str(k).lower(): v for k, v in (config.get("parallelism_config") or {}).items()}
    found = {
        what: sizes.get(f"parallelism_config_{short}_size", sizes.get(f"{short}_size", 1))
        for short, what in SPLITS.items()
    }
    json = deepspeed_file(config)
    found["tensor"] = max(
        _count(found["tensor"]), _count((json.get("tensor_parallel") or {}).get("autotp_size", 1))
    )
    found["sequence"] = max(_count(found["sequence"]), _count(json.get("sequence_parallel_size", 1)))
    for what, size in found.items():
        if _count(size) > 1:
            raise UsageError(
                f"{name}: {what} parallelism cannot be used for training here",
                why="A row holds one context with all its answers, and losses (preference losses above all) compare "
                "the answers of one row; no trainer can cut such a row, or its weights, over several GPUs.",
                hint="--strategy fsdp or zero3 shares the states instead; --set train.tuning=qlora and "
                "gradient_checkpointing leave room for long rows (lcx forecast says how long)",
            )


def _count(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 1


def _check_fsdp(fsdp: Mapping[str, Any], name: str) -> None:
    settings = {key.removeprefix("fsdp_"): value for key, value in fsdp.items()}
    if _count(settings.get("version", 1)) != 2:
        raise UsageError(
            f"{name}: this is FSDP1",
            why="It joins weights of one layer into one flat tensor, which an adapter in fp32 on bf16 or 4-bit weights "
            "does not allow; PyTorch replaced it by FSDP2.",
            hint="fsdp_version: 2 in fsdp_config; " + COPY.format("fsdp"),
        )


def _check_deepspeed(config: Mapping[str, Any], name: str) -> None:
    if find_spec("deepspeed") is None:
        raise MissingError(
            f"the strategy {strategy_of(config)} needs DeepSpeed, which is not installed",
            hint='pip install "lcx[deepspeed]" (it builds code for your GPUs: the CUDA toolkit has to be there); '
            "--strategy fsdp needs nothing",
        )
    if config.get("use_cpu"):
        raise UsageError(
            "DeepSpeed does not run on the CPU",
            why="accelerate starts it on GPUs only.",
            hint="--strategy fsdp, or ddp, can be tried on the CPU",
        )
    json = deepspeed_file(config)
    for section, key in (("scheduler", "schedule"), ("optimizer", "optimizer")):
        if section in json:
            raise UsageError(
                f"{name}: the DeepSpeed config has a section '{section}'",
                why=f"It would replace the recipe's `{key}` without a word.",
                hint=f"Remove the section; --set train.{key}=NAME chooses one",
            )
    own = config.get("deepspeed_config") or {}
    gathers = json.get("zero_optimization", {}).get(
        "stage3_gather_16bit_weights_on_model_save", own.get("zero3_save_16bit_model", False)
    )
    if strategy_of(config) == "zero3" and str(gathers).lower() != "true":
        raise UsageError(
            f"{name}: with this config no model would be saved at the end",
            why="ZeRO-3 leaves every GPU its part of the weights unless it is told to gather them.",
            hint="zero3_save_16bit_model: true in deepspeed_config",
        )


def check_settings(plan: LaunchPlan, values: Mapping[str, Any], step: str) -> None:
    """A strategy with settings of the step that do not go together. `values` are the step's settings."""
    strategy, config = plan.strategy, plan.config
    optimizer = str(values.get("optimizer", ""))
    offload = _offloads(config)
    shared = strategy == "fsdp" or strategy.startswith("zero")
    if strategy == "fsdp" and _from_bitsandbytes(optimizer):
        raise UsageError(
            f"the optimizer {optimizer} does not work with FSDP",
            why="bitsandbytes' optimizers do not know weights that are cut up (its issues 89 and 1633).",
            hint=f"--set {step}.optimizer=adamw_torch (with FSDP its states are cut up too), or --strategy zero3",
        )
    if strategy.startswith("zero") and offload and _from_bitsandbytes(optimizer) and "32bit" not in optimizer:
        raise UsageError(
            f"the optimizer {optimizer} does not work with --offload cpu",
            why="DeepSpeed would put its own CPU optimizer, another one, in its place.",
            hint=f"--set {step}.optimizer=adamw_torch",
        )
    if offload and plan.cpu:
        raise UsageError("--offload cpu: the processes run on the CPU already", hint="Leave --offload out.")
    if shared and offload and values.get("tuning") == "qlora":
        raise UsageError(
            "--offload cpu does not work with 4-bit weights",
            why="They are made on the GPU, and what is offloaded has to start in the CPU's memory.",
            hint="Leave --offload out: the 4-bit weights are cut up over the GPUs; or --set train.tuning=lora",
        )
    if strategy == "fsdp" and values.get("precision") == "fp16":
        raise UsageError(
            "precision fp16 with FSDP is not supported",
            why="fp16 needs loss scaling, and each process would judge overflows by its own part of the gradients.",
            hint=f"--set {step}.precision=bf16",
        )
    if shared and values.get("reference") == "cached":
        raise UsageError(
            f"reference log-probs cannot be computed beforehand with {strategy}",
            why="That happens before the weights are cut up and placed.",
            hint=f"--set {step}.reference=model (a frozen copy on every GPU), tuning lora with "
            "reference=adapter, or --strategy ddp",
        )


def _from_bitsandbytes(optimizer: str) -> bool:
    return any(mark in optimizer for mark in ("8bit", "paged", "bnb")) or optimizer in (
        "lion_32bit",
        "ademamix",
    )


def _offloads(config: Mapping[str, Any]) -> bool:
    fsdp = {key.removeprefix("fsdp_"): value for key, value in (config.get("fsdp_config") or {}).items()}
    zero = config.get("deepspeed_config") or {}
    json = deepspeed_file(config).get("zero_optimization", {})
    devices = [zero.get("offload_optimizer_device"), zero.get("offload_param_device")]
    devices += [(json.get(key) or {}).get("device") for key in ("offload_optimizer", "offload_param")]
    return str(fsdp.get("offload_params", "")).lower() == "true" or any(
        device not in (None, "none") for device in devices
    )


_COUNT = "import torch; print(torch.cuda.device_count())"


def count_gpus() -> int:
    """GPUs that PyTorch can use here: a process of its own asks it, since only PyTorch knows what it was built for."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _COUNT],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    words = done.stdout.split()
    if done.returncode or not words or not words[-1].isdigit():
        raise MissingError(
            "PyTorch cannot be asked for its GPUs",
            why=(done.stderr.strip().splitlines() or ["it ended without an answer"])[-1],
            hint="--device cpu trains on the CPU",
        )
    return int(words[-1])


def threads_each(processes: int) -> int:
    """Threads for each of some processes that share this machine's cores."""
    return max(1, cores() // processes)
