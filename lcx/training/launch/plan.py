"""From launch options to what is going to be started: how many processes, on what, by which config. Torch-free."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcx.errors import MissingError, UsageError
from lcx.training.launch import presets
from lcx.training.launch.checks import check_ask, check_config, check_own, check_settings
from lcx.training.launch.devices import count_gpus, threads_each
from lcx.training.launch.worker import launched

HOST = "lcx.training.launch.host"
WORKER = "lcx"
PORT = 29500
"""Where processes of several machines meet, unless --main-port says otherwise."""


@dataclass(frozen=True)
class Ask:
    """The launch options of a command line; None or False for what was not given."""

    gpus: int | None = None
    strategy: str | None = None
    offload: str | None = None
    nodes: int | None = None
    rank: int | None = None
    main_address: str | None = None
    main_port: int | None = None

    def given(self) -> bool:
        """Whether any of them was."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Plan:
    """What is going to be started on this machine."""

    config: Mapping[str, Any]
    strategy: str
    local: int
    processes: int
    rank: int
    cpu: bool

    def argv(self, config: Path) -> list[str]:
        """The launcher's command line for a config file."""
        return [sys.executable, "-m", HOST, "--config_file", str(config), "-m", WORKER]

    def environment(self) -> dict[str, str]:
        """What the processes need besides this process's variables."""
        extra = {"ACCELERATE_USE_CPU": "true"} if self.cpu else {}
        if "OMP_NUM_THREADS" not in os.environ:
            extra["OMP_NUM_THREADS"] = str(threads_each(self.local))
        return extra

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


def make_plan(ask: Ask, device: str, values: Mapping[str, Any], *, step: str = "train") -> Plan | None:
    """The plan of a train step with these settings, or None where one process in this one will do.

    Raises UsageError or MissingError, before anything is loaded, for what cannot work.
    """
    if not ask.given():
        return None
    if launched() is not None:
        raise UsageError(
            "this process was started by a launcher already",
            why="WORLD_SIZE and LOCAL_RANK are set.",
            hint="Leave out --gpus, --strategy and their like, or the launcher.",
        )
    check_ask(ask, device)
    config = presets.find(ask.strategy or "ddp", qlora=values.get("tuning") == "qlora")
    own = ask.strategy is not None and ask.strategy not in presets.names()
    if own:
        check_own(config, str(ask.strategy))
    nodes = ask.nodes or (_number(config, "num_machines") if own else 0) or 1
    cpu, local = _place(ask, device, config, nodes, own)
    if local == nodes == 1 and ask.strategy is None:
        return None
    made = presets.adapt(
        config,
        processes=local * nodes,
        nodes=nodes,
        rank=ask.rank if ask.rank is not None else (_number(config, "machine_rank") if own else 0),
        address=ask.main_address or (config.get("main_process_ip") if own else None),
        port=ask.main_port
        or (_number(config, "main_process_port") if own else 0)
        or (PORT if nodes > 1 else None),
        cpu=cpu,
        offload=ask.offload is not None,
    )
    plan = Plan(made, presets.strategy_of(made), local, local * nodes, int(made["machine_rank"]), cpu)
    check_config(plan.config, str(ask.strategy or "ddp"), ask)
    check_settings(plan, values, step)
    return plan


def _place(ask: Ask, device: str, config: Mapping[str, Any], nodes: int, own: bool) -> tuple[bool, int]:
    """Whether the processes run on the CPU, and how many start here. Raises MissingError for GPUs that lack."""
    found = 0 if device == "cpu" or (own and config.get("use_cpu")) else count_gpus()
    asked = ask.gpus or (_number(config, "num_processes") // nodes if own else 0)
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
