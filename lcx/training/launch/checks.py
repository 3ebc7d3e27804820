"""Launches that are known not to work, refused before anything is loaded, each with what to do instead. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lcx.errors import MissingError, UsageError
from lcx.training.launch.presets import deepspeed_file, strategy_of

if TYPE_CHECKING:
    from lcx.training.launch.plan import Ask, Plan

KINDS = {"MULTI_GPU", "MULTI_CPU", "NO", "FSDP", "DEEPSPEED"}
"""accelerate's ways of running processes that the trainers here know."""
SPLITS = {"cp": "context", "sp": "sequence", "tp": "tensor"}
"""Ways to cut one row, or one weight matrix, over several processes."""
COPY = "lcx presets copy {} mine.yaml shows one that works"


def check_ask(ask: Ask, device: str) -> None:
    """Options that contradict each other or lack one another."""
    if ask.gpus is not None and ask.gpus < 1:
        raise UsageError(f"--gpus {ask.gpus}: at least 1")
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device} with several processes: each takes a GPU of its own",
            hint=f"CUDA_VISIBLE_DEVICES={device.partition(':')[2]} before the command chooses cards",
        )
    nodes = ask.nodes or 1
    if nodes < 1 or (ask.nodes is not None and ask.nodes < 1):
        raise UsageError(f"--nodes {ask.nodes}: at least 1")
    if nodes > 1:
        lacking = [
            name
            for name, value in (("--rank", ask.rank), ("--main-address", ask.main_address))
            if value is None
        ]
        if lacking:
            raise UsageError(
                f"--nodes {nodes} needs {' and '.join(lacking)}",
                why="Each machine runs the same command with its own number, and meets the others at machine 0.",
                hint=f"--nodes {nodes} --rank 0 --main-address HOST on the first machine, --rank 1 on the next",
            )
        if ask.gpus is None:
            raise UsageError("--nodes needs --gpus, the number on each machine")
    if ask.rank is not None and not 0 <= ask.rank < nodes:
        raise UsageError(
            f"--rank {ask.rank} of {nodes} machine{'s' if nodes > 1 else ''}",
            hint=f"--rank counts machines from 0; --nodes says how many: --nodes {ask.rank + 1} or more",
        )
    if ask.offload is not None and ask.strategy is None:
        raise UsageError(
            "--offload cpu needs a strategy that shares states", hint="--strategy fsdp, or zero3"
        )


def check_own(config: Mapping[str, Any], name: str) -> None:
    """What a user's file asks for that a launch would replace without a word."""
    if str(config.get("mixed_precision", "no")).lower() == "fp8":
        raise UsageError(
            f"{name}: mixed_precision fp8 is not supported",
            why="The step's own precision decides, and it knows bf16, fp32 and fp16.",
            hint="mixed_precision: 'no' in the file; --set train.precision=bf16",
        )


def check_config(config: Mapping[str, Any], name: str, ask: Ask) -> None:
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
    if ask.offload is not None and strategy == "ddp":
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


def check_settings(plan: Plan, values: Mapping[str, Any], step: str) -> None:
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
