"""What the core itself brings: the bundled recipes' folder, text generators, retrievers, probes, and the generic
methods `sft` and `preference`.

It registers through the same hooks as any plugin.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lcx import hookimpl

if TYPE_CHECKING:
    from lcx.context import Context, StepResult
    from lcx.recipe import Step
    from lcx.run import Run

SFT = "sft"
PREFERENCE = "preference"

PROBES = {
    "val:document": "lcx.evaluation.probes.val:DOCUMENT",
    "val:code": "lcx.evaluation.probes.val:CODE",
    "val:database": "lcx.evaluation.probes.val:DATABASE",
    "needle": "lcx.evaluation.probes.needle:NEEDLE",
    "ruler:multikey": "lcx.evaluation.probes.ruler:MULTIKEY",
    "ruler:multivalue": "lcx.evaluation.probes.ruler:MULTIVALUE",
    "ruler:multiquery": "lcx.evaluation.probes.ruler:MULTIQUERY",
    "ruler:variables": "lcx.evaluation.probes.ruler:VARIABLES",
    "ruler:common": "lcx.evaluation.probes.ruler:COMMON",
    "ruler:frequent": "lcx.evaluation.probes.ruler:FREQUENT",
    "multihop": "lcx.evaluation.probes.multihop:MULTIHOP",
    "stale": "lcx.evaluation.probes.stale:STALE",
    "perplexity": "lcx.evaluation.probes.perplexity:PERPLEXITY",
}
"""Probes and measures by name, imported when one is needed."""

METRICS = (
    "f1",
    "f1_zh",
    "rouge_l",
    "rouge_l_zh",
    "classification",
    "retrieval",
    "retrieval_zh",
    "count",
    "code_similarity",
    "csqa",
    "gsm8k",
    "multiple_choice",
)
"""Functions of `lcx.evaluation.metrics`."""


@hookimpl
def lcx_register_recipes(register: Callable[..., None]) -> None:
    register(importlib.resources.files("lcx_recipes"))


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.steps import EVAL, TRAIN, Method
    from lcx.steps import PREFERENCE as PREFER

    register(
        Method(
            name=PREFERENCE,
            summary="Preference optimisation by any registered loss: one chosen, any number of rejected answers",
            stages={"train": PREFER, "eval": EVAL},
        )
    )
    register(
        Method(
            name=SFT,
            summary="Supervised fine-tuning on any bundles: answer tokens only, the context paid for once",
            stages={"train": TRAIN, "eval": EVAL},
        )
    )


@hookimpl
def lcx_register_llms(register: Callable[..., None]) -> None:
    register("builtin", "lcx.llm.builtin:open_builtin")
    register("local", "lcx.llm.local:open_local")
    register("openai", "lcx.llm.client:open_server")


@hookimpl
def lcx_register_retrievers(register: Callable[..., None]) -> None:
    register("bm25", "lcx.retrieval:open_bm25")
    register("openai", "lcx.retrieval:open_endpoint")
    register("sentence-transformers", "lcx.retrieval:open_sentence_transformers")


@hookimpl
def lcx_register_losses(register: Callable[..., None]) -> None:
    register("logo", "lcx.training.losses:LOGO")
    register("simpo", "lcx.training.losses:SIMPO")
    register("dpo", "lcx.training.losses:DPO")
    register("orpo", "lcx.training.losses:ORPO")


@hookimpl
def lcx_register_probes(register: Callable[..., None]) -> None:
    from lcx.evaluation.benchmarks.groups import BENCHMARKS

    for name, target in (PROBES | BENCHMARKS).items():
        register(name, target)


@hookimpl
def lcx_register_metrics(register: Callable[..., None]) -> None:
    for name in METRICS:
        register(name, f"lcx.evaluation.metrics:{name}")


# The stages' own hooks come last: whatever a plugin does about a step goes first, and they look the method up.


@hookimpl(trylast=True)
def lcx_synth(step: Step, run: Run, ctx: Context) -> StepResult | None:
    return _run_stage(step, run, ctx)


@hookimpl(trylast=True)
def lcx_score(step: Step, run: Run, ctx: Context) -> StepResult | None:
    return _run_stage(step, run, ctx)


@hookimpl(trylast=True)
def lcx_train(step: Step, run: Run, ctx: Context) -> StepResult | None:
    return _run_stage(step, run, ctx)


@hookimpl(trylast=True)
def lcx_eval(step: Step, run: Run, ctx: Context) -> StepResult | None:
    return _run_stage(step, run, ctx)


@hookimpl(trylast=True)
def lcx_forecast(step: Step, run: Run, ctx: Context) -> dict[str, Any] | None:
    from lcx.steps import forecast_stage

    return forecast_stage(step, run, ctx)


def _run_stage(step: Step, run: Run, ctx: Context) -> StepResult | None:
    from lcx.steps import run_stage

    return run_stage(step, run, ctx)
