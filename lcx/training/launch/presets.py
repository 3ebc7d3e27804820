"""accelerate configs: those that ship with lcx, the user's, and what a launch changes in them. Torch-free."""

from __future__ import annotations

import copy
import importlib.resources
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lcx.errors import UsageError, suggestion

__all__ = ["STRATEGIES", "adapt", "find", "names", "read", "strategy_of", "summary", "text"]

Config = dict[str, Any]
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
"""What --strategy may name besides a file."""
FOR_QLORA = {"fsdp": "fsdp-qlora", "zero3": "zero3-qlora"}
"""Presets that 4-bit weights need others for."""


def names() -> list[str]:
    """Names of the presets that ship with lcx."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder() if file.name.endswith(".yaml"))


def text(name: str) -> str:
    """A preset's file. Raises UsageError for a name that is none."""
    for file in _folder():
        if file.name == f"{name}.yaml":
            return str(file.read_text(encoding="utf-8"))
    raise UsageError(
        f"no preset '{name}'. {suggestion(name, names())}".rstrip(), why=f"There are {', '.join(names())}."
    )


def summary(name: str) -> str:
    """The first sentence of a preset's own comment."""
    lines = [line.removeprefix("# ") for line in text(name).splitlines() if line.startswith("# ")]
    return " ".join(lines).partition(". ")[0].rstrip(".")


def _folder() -> Iterator[Any]:
    return (importlib.resources.files("lcx.training") / "presets").iterdir()


def find(strategy: str, *, qlora: bool = False) -> Config:
    """The config of a strategy: a preset by its name, or the user's file by its path. Raises UsageError."""
    if strategy in names():
        return dict(yaml.safe_load(text(FOR_QLORA.get(strategy, strategy) if qlora else strategy)))
    if strategy.endswith((".yaml", ".yml", ".json")) or "/" in strategy:
        return read(Path(strategy).expanduser())
    raise UsageError(
        f"no strategy '{strategy}'. {suggestion(strategy, names())}".rstrip(),
        why=f"There are {', '.join(names())}; or a path to an accelerate config that ends in .yaml.",
    )


def read(path: Path) -> Config:
    """An accelerate config from a YAML or JSON file. Raises UsageError for what is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except OSError as bad:
        raise UsageError(
            f"cannot read the accelerate config {path}",
            why=bad.strerror or str(bad),
            hint="lcx presets copy fsdp mine.yaml",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as bad:
        raise UsageError(f"{path} is not YAML", why=" ".join(str(bad).split())) from None
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
        found = yaml.safe_load(Path(str(named)).expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as bad:
        raise UsageError(
            f"cannot read the DeepSpeed config {named}", why=" ".join(str(bad).split())
        ) from None
    return dict(found) if isinstance(found, dict) else {}


def zero_stage(config: Mapping[str, Any]) -> int:
    """ZeRO's stage by an accelerate config or the DeepSpeed file that it names; accelerate's own default is 2."""
    own = config.get("deepspeed_config") or {}
    stage = deepspeed_file(config).get("zero_optimization", {}).get("stage", own.get("zero_stage", 2))
    return int(stage)


def adapt(
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
