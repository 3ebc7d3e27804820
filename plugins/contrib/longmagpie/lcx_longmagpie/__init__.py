"""LongMagpie (arXiv 2505.17134): behind a document and an empty user turn an aligned model writes the question."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lcx import hookimpl
from lcx.data.settings import CorpusSettings
from lcx.data.templates import TEMPLATES, Template
from lcx.llm.settings import Calling
from lcx.settings import FILE, Settings, setting
from lcx.steps import EVAL, TRAIN, Method, Stage

HOOK_API = 2
TEMPLATES["tiny-turn"] = Template("tiny-turn", between="\n?", lead=" ", end=" ;", chat=False, eos=False)


class Synth(Calling, CorpusSettings):
    """Settings of the stage `synth`."""

    segment_tokens: int = setting(
        128, ge=4, description="long documents are cut between pieces of about so many"
    )
    segment_by: Literal["length", "lines"] = setting(
        "length", description="`lines`: cut between any two lines"
    )
    context_tokens: tuple[int, int] = setting((2048, 65_536), description="least and most tokens asked about")
    examples: int = setting(1000, ge=1, description="texts that questions are written about, at most")
    others: int = setting(
        0, ge=0, description="other documents around each in training, at most; 0 to so many"
    )
    separator: str = setting("\n\n", description="stands between two documents")
    questions: int = setting(4, ge=1, description="questions asked for a text; equal ones count once")
    llm: str = setting("", description="local:PATH_OR_ID of an instruct model", json_schema_extra=FILE)
    llm_options: dict[str, Any] = setting({}, description="options of that backend, such as batch")
    template: str | None = setting(None, description="a training template in place of the model's chat turns")
    question_temperature: float = setting(1.0, ge=0, description="sampling temperature of questions")
    temperature: float = setting(0.0, ge=0, description="sampling temperature of answers")
    top_p: float = setting(1.0, gt=0, le=1, description="nucleus that both are sampled from")
    question_tokens: int = setting(128, ge=1, description="most tokens of a question; a cut one is left out")
    answer_tokens: int = setting(1024, ge=1, description="most tokens of an answer; a cut one is left out")


class Turns(Settings):
    """Settings of the method `user-turns`."""

    input: str | None = setting(None, description="bundles of questions and answers: step:ID or a folder")
    template: str = setting("plain", description="what stands between a question and its answer")


@hookimpl
def lcx_register_methods(register: Any) -> None:
    turns = {"synth": Stage(Turns, "lcx_longmagpie.synth:turns")}
    register(Method("user-turns", "a model without chat turns learns to ask and to answer", turns))
    stages = {"synth": Stage(Synth, "lcx_longmagpie.synth:synth"), "train": replace(TRAIN), "eval": EVAL}
    summary = "questions that an aligned model writes after a document, and its answers"
    register(Method("longmagpie", summary, stages, "https://arxiv.org/abs/2505.17134"))


@hookimpl
def lcx_register_recipes(register: Any) -> None:
    register(Path(__file__).parent / "recipes")
