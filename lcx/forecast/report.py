"""A forecast as numbers for machines and lines for people: memory, fit, longest context, operations, assumptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lcx.forecast.cards import CARDS, CPU_SHARE, GIB, GPU_SHARE, Card, cpu_tflops, find_card, has_gpu
from lcx.forecast.memory import (
    FRAGMENTS,
    PARTS,
    STATES,
    Flops,
    Memory,
    largest_context,
    moments,
    state_bytes,
    step_flops,
    step_memory,
)
from lcx.forecast.model import Plan
from lcx.progress import duration

SHORTEST = 512
"""Context tokens below which a shorter context is no advice."""
SIZES = (24.0, 48.0, 80.0, 141.0)
"""Memories in GiB whose longest contexts are shown where no card is given."""
ROWS = {
    "weights": "weights",
    "adapters": "adapters",
    "reference": "reference model",
    "optimizer": "optimizer states",
    "gradients": "gradients",
    "activations": "activations",
    "keys": "keys and values",
    "logits": "logits of the answers (tiles)",
    "work": "work of the moment",
    "exchange": "exchange between GPUs",
    "workspace": "libraries and gaps",
}


@dataclass(frozen=True)
class Forecast:
    """A plan's forecast. `replan(context, **changes)` gives the plan of another context or tuning."""

    plan: Plan
    about: dict[str, Any]
    card: Card | None
    mfu: float | None
    """The share of the peak that is reached, where the user says it."""
    replan: Callable[..., Plan]

    @property
    def memory(self) -> Memory:
        """The highest moment of the planned step."""
        return step_memory(self.plan)

    @property
    def flops(self) -> Flops:
        """Operations of the planned step."""
        return step_flops(self.plan)

    @property
    def fits(self) -> bool | None:
        """True if the step fits the card; None without one."""
        return None if self.card is None else self.memory.total <= self.card.capacity

    def longest(self, gib: float, checkpointing: bool) -> int:
        """Most context tokens that fit so much memory."""
        return largest_context(
            lambda context: replace(self.replan(context), checkpointing=checkpointing), gib * GIB
        )

    @property
    def utilisation(self) -> float:
        """The share of the peak that is reached."""
        return self.mfu if self.mfu is not None else CPU_SHARE if self.plan.device == "cpu" else GPU_SHARE

    def seconds(self) -> float | None:
        """Time of a step: in 16 bits on a card whose peak is known, or in fp32 on this machine's CPU, else None."""
        if self.card is None:
            return None
        if self.plan.device == "cpu":
            known = self.plan.precision == "fp32"
            return cpu_seconds(self.flops, self.utilisation) if known else None
        if self.card.tflops is None or self.plan.precision == "fp32":
            return None
        return self.flops.seconds(self.plan.gpus, self.card.tflops, self.utilisation)

    def both(self) -> dict[bool, Memory]:
        """The step's memory with and without gradient checkpointing."""
        return {on: step_memory(replace(self.plan, checkpointing=on)) for on in (True, False)}

    def contexts(self) -> list[dict[str, Any]]:
        """Longest contexts with and without gradient checkpointing: on the card, or on common sizes."""
        sizes = [self.card.gib] if self.card is not None else list(SIZES)
        return [
            {
                "gib": gib,
                "with_checkpointing": self.longest(gib, True),
                "without_checkpointing": self.longest(gib, False),
            }
            for gib in sizes
        ]

    def changed(self) -> str:
        """Words of a command line under which the step fits the card: the mildest change, else a larger card."""
        if self.card is None or self.fits:
            return ""
        for words, plan in self._changes():
            if step_memory(plan).total <= self.card.capacity:
                return words
        found = [(self._longest_with(changes), words) for words, changes in self._tunings()]
        longest, words = max(found, key=lambda pair: pair[0])
        if longest >= SHORTEST:
            return f"{words} --tokens {longest}".strip()
        larger = cards_that_fit(self.memory)
        return f"--card {larger[0] if larger else list(CARDS)[-1]}"

    def _longest_with(self, changes: dict[str, Any]) -> int:
        assert self.card is not None
        return largest_context(lambda context: replace(self.replan(context), **changes), self.card.capacity)

    def _changes(self) -> Iterator[tuple[str, Plan]]:
        """Changes of the settings, then more GPUs, then both."""
        for words, changes in self._tunings():
            yield words, replace(self.plan, **changes)
        if self.plan.device != "cuda" or self.plan.gpus > 1:
            return
        for words, changes in self._tunings():
            for gpus in (2, 4, 8):
                more: dict[str, Any] = {
                    "gpus": gpus,
                    "strategy": "fsdp",
                    "passes": max(1, self.plan.passes // gpus),
                }
                yield f"{words} --gpus {gpus} --strategy fsdp".strip(), replace(self.plan, **changes, **more)

    def _tunings(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The plan's own tuning and those that take less, all with checkpointing."""
        on = "" if self.plan.checkpointing else "--set {step}.gradient_checkpointing=true"
        tunings = ("full", "lora", "qlora")
        for tuning in tunings[tunings.index(self.plan.tuning) :]:
            words = f"{on} --set {{step}}.tuning={tuning}" if tuning != self.plan.tuning else on
            yield words.strip(), {"tuning": tuning, "checkpointing": True}

    def assumptions(self) -> list[str]:
        """The assumptions that the numbers rest on, a sentence each."""
        plan, about = self.plan, self.about
        found = [
            f"the longest row: {about['context']:,} context tokens ({about['context_from']}), "
            f"{counted(about['branches'], 'answer')} of {about['answer']:,}"
            + (f" and a question of {about['question']:,} each" if about["question"] else "")
            + f"; {counted(about['micro_batch'], 'context')} a forward pass, {counted(plan.passes, 'pass')} a step",
            "memory is a step's highest moment from the second step on, when the optimizer has its states",
            "attention by kernels that hold no scores (flash; on a GPU in 16 bits)"
            if plan.kernels == "sdpa"
            else "attention by flash-attn, which keeps a copy of the prefix's keys for every answer",
        ]
        window, target = plan.shape.window, about.get("target_length")
        if target:
            found.append(f"synthetic positions up to {target:,} cost no memory: only real tokens count")
        elif window and about["context"] + about["question"] + about["answer"] > window:
            found.append(f"the row is longer than the model's window of {window:,}: it needs rope settings")
        if plan.optimizer not in STATES:
            known = plan.optimizer.startswith(("adamw_torch", "paged_adamw_32bit"))
            found.append(
                f"optimizer {plan.optimizer}: {state_bytes(plan.optimizer):g} bytes a trained parameter"
                + ("" if known else ", as Adam, for want of a better figure")
            )
        if plan.device == "cuda" and plan.precision == "fp32":
            found.append("a GPU's attention may hold all scores in fp32, which is not counted")
        if plan.engine == "trl":
            found.append("engine trl: a row for each answer; its own buffers are not counted")
        if plan.strategy in ("fsdp", "zero2", "zero3") and plan.gpus > 1:
            found.append(
                "fsdp: two layers are whole at a time, embeddings and head through a whole pass"
                if plan.strategy == "fsdp"
                else f"{plan.strategy}: DeepSpeed's default buckets; weights of the computation in 16 bits"
            )
        if plan.reference == "cached":
            found.append(
                "reference log-probs are computed once before training, in a forward pass an example"
            )
        if plan.device == "cpu":
            found.append(
                "the process beside Python and its libraries; glibc keeps freed blocks besides, up to three times "
                "this with rows of many lengths; where that is not there, lcx train has it return them"
            )
        else:
            found.append(f"CUDA's context and libraries 0.6 GiB, {FRAGMENTS:.0%} lost to gaps")
        if self.seconds() is not None and plan.device == "cpu":
            found.append(
                f"{self.utilisation:.0%} (--mfu) of the {1000 * cpu_tflops():,.0f} GFLOP/s that a product of "
                "matrices in fp32 reached here just now, operations done twice included; half or twice the time is no "
                "surprise"
            )
        elif self.seconds() is not None and self.card is not None:
            found.append(
                f"{self.utilisation:.0%} of the card's {self.card.tflops:,.0f} TFLOP/s dense in 16 bits (--mfu)"
            )
        return found

    def elsewhere(self) -> dict[str, int]:
        """Parts that are larger at another moment of the step than at the highest, with those sizes."""
        at_highest = self.memory
        most = {name: max(getattr(one, name) for one in moments(self.plan)) for name in PARTS}
        return {name: size for name, size in most.items() if size > getattr(at_highest, name)}

    def as_dict(self) -> dict[str, Any]:
        """Everything for --json; sizes in bytes."""
        memory, flops = self.memory, self.flops
        return {
            "shape": {**asdict(self.plan.shape), "parameters": self.plan.shape.parameters},
            "plan": {key: value for key, value in asdict(self.plan).items() if key not in ("shape", "row")}
            | self.about
            | {"row_tokens": self.plan.row.tokens, "trained_parameters": self.plan.trained},
            "larger_at_other_moments": self.elsewhere(),
            "card": asdict(self.card) if self.card else None,
            "memory": sizes(memory),
            "memory_with_checkpointing": sizes(self.both()[True]),
            "memory_without_checkpointing": sizes(self.both()[False]),
            "fits": self.fits,
            "longest_context": self.contexts(),
            "step": {**asdict(flops), "seconds": (seconds := self.seconds())},
            "whole": {
                "steps": self.about.get("steps"),
                "seconds": whole_seconds(self.about.get("steps"), seconds),
            },
            "assumptions": self.assumptions(),
        }


def sizes(memory: Memory) -> dict[str, Any]:
    """A memory's parts, in bytes, with their sum and its moment."""
    return asdict(memory) | {"total": memory.total}


def gib(size: float) -> str:
    """Bytes as GiB, with enough digits for small models."""
    value = size / GIB
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def table_rows(memories: dict[bool, Memory]) -> list[tuple[str, ...]]:
    """A row for each part that is there, in GiB with and without checkpointing, and their sums."""
    rows = []
    for name, label in ROWS.items():
        sizes = [getattr(memory, name) for memory in memories.values()]
        if any(sizes):
            rows.append((label, *(gib(size) if size else "" for size in sizes)))
    rows.append(("together", *(gib(memory.total) for memory in memories.values())))
    rows.append(("highest at", *(memory.moment for memory in memories.values())))
    return rows


def elsewhere_line(found: Forecast) -> str:
    """A line on the parts that are larger at another moment; empty where none is."""
    parts = [
        f"{ROWS[name]} {gib(size)}"
        for name, size in found.elsewhere().items()
        if size > 0.005 * found.memory.total
    ]
    return f"at other moments: {', '.join(parts)}" if parts else ""


def memory_line(values: Mapping[str, Any], device: str = "auto", **row: Any) -> str:
    """A train step's memory on this machine in a line, from its settings; empty where that cannot be told.

    `row` is the longest row where it is known, by fields of `Launch`: `tokens` of its context, `answer`, `question`,
    and how many of them. No network is asked for the model's config.
    """
    planned = _planned(values, device, **row)
    if planned is None:
        return ""
    plan, about = planned
    where = "the CPU" if plan.device == "cpu" else "a GPU"
    return (
        f"{gib(step_memory(plan).total)} GiB on {where} at {about['context']:,} context tokens (lcx forecast)"
    )


def memory_bytes(values: Mapping[str, Any], device: str, **row: Any) -> int:
    """A train step's memory on this machine in bytes, as `memory_line` has it; 0 where that cannot be told."""
    planned = _planned(values, device, **row)
    return 0 if planned is None else step_memory(planned[0]).total


def _planned(values: Mapping[str, Any], device: str, **row: Any) -> tuple[Plan, dict[str, Any]] | None:
    """The plan of a train step on this machine, and what it rests on; None where the model's config is not here."""
    from lcx.errors import LcxError
    from lcx.forecast.model import is_adapter, shape_of_model
    from lcx.forecast.steps import Launch, plan_step

    spec = str(values.get("model") or "")
    if not spec or spec.startswith("step:"):
        return None
    card = None if device != "cpu" and has_gpu() else find_card("cpu")
    try:
        shape = shape_of_model(spec, network=False)
        return plan_step(values, shape, Launch(**row), card=card, adapter_given=is_adapter(spec))
    except LcxError:
        return None


def cpu_seconds(flops: Flops, share: float = CPU_SHARE) -> float:
    """Time of a step in fp32 on this machine's CPU, at a share of what a product of matrices reaches."""
    return flops.hardware / (cpu_tflops() * 1e12 * share)


def whole_seconds(steps: int | None, seconds: float | None) -> float | None:
    """Time of so many steps of the longest rows, where both are known."""
    return None if steps is None or seconds is None else steps * seconds


def time_line(values: Mapping[str, Any], steps: int, device: str = "auto", **row: Any) -> str:
    """A training's time on this machine's CPU in a line; empty where it would not be there, or cannot be told."""
    planned = _planned(values, device, **row)
    if planned is None or planned[0].device != "cpu" or planned[0].precision != "fp32":
        return ""
    seconds = steps * cpu_seconds(step_flops(planned[0]))
    return f"at most about {duration(seconds)} on this CPU for {counted(steps, 'step')} (lcx forecast)"


def amount(number: float) -> str:
    """Parameters in millions or billions."""
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M"


def counted(number: int, thing: str) -> str:
    """`1 answer`, `3 answers`."""
    return f"{number:,} {thing}{'' if number == 1 else 's' if not thing.endswith('pass') else 'es'}"


def cards_that_fit(memory: Memory) -> list[str]:
    """Known cards with room for a step."""
    return [card.name for card in CARDS.values() if memory.total <= card.capacity]
