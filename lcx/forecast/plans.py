"""What a training step does with a model: its tuning, precision, rows of tokens, and how many GPUs share it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lcx.errors import UsageError
from lcx.forecast.shapes import Linear, Shape

STRATEGIES = ("single", "ddp", "fsdp", "zero2", "zero3")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Row:
    """One forward pass of a process: tokens in its row, those whose answers are learnt, query-key pairs.

    `copies` are tokens whose keys and values flash-attn is handed a second time: a prefix for each branch.
    """

    tokens: int
    targets: int
    pairs: int
    copies: int = 0


def packed_row(context: int, question: int, answer: int, branches: int, micro: int = 1) -> Row:
    """`micro` contexts of so many tokens with their branches, packed: [P[:-1] | (P[-1], branch) | ...].

    A branch attends to all of the prefix and causally to itself, so that its pairs are those of a row alone.
    """
    prefix, branch = context - 1, question + answer + 1
    pairs = causal(prefix) + branches * (branch * prefix + causal(branch))
    return Row(
        micro * (prefix + branches * branch),
        micro * branches * answer,
        micro * pairs,
        micro * branches * (prefix + branch),
    )


def separate_rows(context: int, question: int, answer: int, rows: int) -> Row:
    """Rows of a context, a question and an answer each, in one batch."""
    tokens = context + question + answer
    return Row(rows * tokens, rows * answer, rows * causal(tokens))


def causal(tokens: int) -> int:
    """Pairs of a row that attends causally to itself: n (n + 1) / 2."""
    return tokens * (tokens + 1) // 2


@dataclass(frozen=True)
class Plan:
    """A training step as memory and FLOPs see it.

    `passes` are forward passes an optimizer step on each GPU; `reference` is "" for losses without one, else
    adapter, model or cached. `engine` is shared-prefix or trl, `kernels` sdpa or flash, `device` cuda or cpu.
    """

    shape: Shape
    row: Row
    tuning: str = "full"
    precision: str = "bf16"
    lora_r: int = 32
    lora_targets: tuple[str, ...] = ("all-linear",)
    checkpointing: bool = True
    optimizer: str = "adamw_torch"
    passes: int = 1
    gpus: int = 1
    strategy: str = "single"
    offload: bool = False
    reference: str = ""
    engine: str = "shared-prefix"
    kernels: str = "sdpa"
    device: str = "cuda"

    @property
    def compute(self) -> int:
        """Bytes of a number in the computation."""
        return BYTES[self.precision]

    @property
    def residual(self) -> int:
        """Bytes of a number in the residual stream, which follows the embeddings' precision.

        4-bit models keep embeddings, norms and head in fp32, full tuning all weights, unless fsdp or DeepSpeed
        cast them.
        """
        cast = self.tuning == "full" and self.strategy in ("fsdp", "zero2", "zero3")
        return self.compute if self.tuning == "lora" or cast else 4

    @property
    def checked(self) -> Plan:
        """The plan itself. Raises UsageError where its parts do not go together."""
        if self.strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy '{self.strategy}'", why=f"Known: {', '.join(STRATEGIES)}.")
        if self.offload and self.strategy not in ("fsdp", "zero2", "zero3"):
            raise UsageError(
                f"offload needs a strategy that shares states, and {self.strategy} does not",
                hint="--strategy zero3 --offload cpu",
            )
        if self.tuning != "full" and not self.adapted and not self.outer:
            names = ", ".join(one.name for one in self.shape.linears())
            raise UsageError(
                f"lora_targets {', '.join(self.lora_targets)} name no layer of this shape",
                why=f"It has {names}, embed_tokens, lm_head.",
            )
        return self

    @cached_property
    def adapted(self) -> tuple[Linear, ...]:
        """The matrices of a layer that carry adapters."""
        if self.tuning == "full":
            return ()
        found = self.shape.linears()
        if self.lora_targets == ("all-linear",):
            return found
        return tuple(one for one in found if one.name in self.lora_targets)

    @cached_property
    def outer(self) -> tuple[Linear, ...]:
        """Embeddings and head where they carry adapters."""
        if self.tuning == "full":
            return ()
        both = (
            Linear("embed_tokens", self.shape.vocab, self.shape.hidden),
            Linear("lm_head", self.shape.hidden, self.shape.vocab),
        )
        return tuple(one for one in both if one.name in self.lora_targets)

    @cached_property
    def layer_adapter(self) -> int:
        """Adapter parameters of one layer: r (in + out) for each matrix."""
        return sum(self.lora_r * (one.inputs + one.outputs) for one in self.adapted)

    @cached_property
    def adapter(self) -> int:
        """All adapter parameters."""
        outer = sum(self.lora_r * (one.inputs + one.outputs) for one in self.outer)
        return self.shape.layers * self.layer_adapter + outer

    @property
    def trained(self) -> int:
        """Parameters that the optimizer changes."""
        return self.shape.parameters if self.tuning == "full" else self.adapter
