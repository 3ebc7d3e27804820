"""LongRLVR (arXiv 2603.02146), offline: an answer is rewarded for being right and for the evidence chunks it cites."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lcx import hookimpl
from lcx.data.templates import TEMPLATES, Template
from lcx.llm.settings import Calling
from lcx.settings import FILE, Settings, setting
from lcx.steps import EVAL, PREFERENCE, Method, Stage

HOOK_API = 2
TEMPLATES["longrlvr"] = Template(
    "longrlvr",
    head="A text follows, cut into chunks; each begins with its number in brackets.\n\n",
    between="\n\nQuestion: ",
    after="\n\nReply in two lines. In the first, the numbers of the chunks that the answer rests on, and no others; in "
    "the second, the answer.\nEvidence: [number] [number]\nAnswer: ...",
    cue="\n\n",
)
CITES = "numbers: chunks are numbered, [n] cites; words: an answer cites the chunks whose first word it has"


class Synth(Calling):
    """Settings of the stage `synth`: questions with known evidence, each answered several times."""

    input: str | None = setting(None, description="questions with evidence: step:ID of a synth step of IN2")
    cites: Literal["numbers", "words"] = setting("numbers", description=CITES)
    llm: str = setting("builtin", description="the model to be trained", json_schema_extra=FILE)
    llm_options: dict[str, Any] = setting({}, description="options of that backend, such as batch")
    candidates: int = setting(8, ge=2, description="answers a question")
    temperature: float = setting(1.0, ge=0, description="sampling temperature of the answers")
    answer_tokens: int = setting(512, ge=1, description="most tokens of an answer; what is cut has no reward")
    template: str = setting(
        "longrlvr", description="asks for answers, and trains on them", json_schema_extra=FILE
    )
    seed: int = setting(0, description="every draw follows from it")


class Score(Settings):
    """Settings of the stage `score`."""

    input: str | None = setting(None, description="answers to score: step:ID of this method's synth")
    beta: float = setting(2.0, gt=0, description="of grounding's F: above 1 a missed chunk weighs more")
    alone: float = setting(0.1, ge=0, le=1, description="share of grounding that a wrong answer is given too")
    margin: float = setting(
        0.5, gt=0, le=2, description="least lead of the chosen answer's reward (at most 2)"
    )
    seed: int = setting(0, description="the draw of rejected answers follows from it")


@hookimpl
def lcx_register_methods(register: Any) -> None:
    own: dict[str, type[Settings]] = {"synth": Synth, "score": Score}
    stages = {name: Stage(kind, f"lcx_longrlvr.stages:{name}") for name, kind in own.items()}
    stages |= {"train": replace(PREFERENCE), "eval": EVAL}
    paper = "https://arxiv.org/abs/2603.02146"
    register(Method("longrlvr", "the answer that is right and cites its evidence, preferred", stages, paper))


@hookimpl
def lcx_register_recipes(register: Any) -> None:
    register(Path(__file__).parent / "recipes")
