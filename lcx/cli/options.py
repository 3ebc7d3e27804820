"""Options that several commands share, each declared once. The metavar names what a value is, also for
completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

APP: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 110},
}


@dataclass
class State:
    """How much the process prints; set by -q and -v wherever they stand on the command line."""

    quiet: bool = False
    verbose: bool = False

    def reset(self) -> None:
        self.quiet = self.verbose = False


STATE = State()


def _quiet(value: bool) -> None:
    STATE.quiet = STATE.quiet or value


def _verbose(value: bool) -> None:
    STATE.verbose = STATE.verbose or value


def examples(*lines: str, after: str = "") -> str:
    """An epilog of examples that the help formatter leaves as it is."""
    text = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
    return f"{text}\n\n{after}" if after else text


Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.", callback=_quiet)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Tracebacks of unexpected errors.", callback=_verbose)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

Recipe = Annotated[
    str, typer.Option("--recipe", "-r", metavar="RECIPE", help="A recipe's name, or a path to its YAML file.")
]
MaybeRecipe = Annotated[
    str | None,
    typer.Option("--recipe", "-r", metavar="RECIPE", help="A recipe's name, or a path to its YAML file."),
]
StepId = Annotated[
    str | None, typer.Option("--step", metavar="STEP", help="Which step, where several serve this stage.")
]
RunDir = Annotated[
    str | None, typer.Option("--run", metavar="DIR", help="The run's folder (default: runs/RECIPE).")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Override a setting, as step.key=value. Repeatable."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="`tiny`, step:ID, a folder, a GGUF file, a hub id, or a name of `lcx models`.",
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option("--corpus", metavar="CORPUS", help="`stdlib`, a file or folder, or hf:NAME."),
]
Llm = Annotated[
    str | None,
    typer.Option(
        "--llm", metavar="LLM", help="Who writes: `builtin` (rules), openai:MODEL or local:PATH_OR_ID."
    ),
]
Judge = Annotated[
    str | None, typer.Option("--judge", metavar="LLM", help="Who judges; takes what --llm takes.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="Where openai:MODEL is served, with its /v1."),
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", min=1, help="Calls in flight at a time.")
]
MaxCalls = Annotated[
    int | None, typer.Option("--max-calls", metavar="N", min=0, help="Calls after which a step stops.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=0, help="Tokens after which a step stops.")
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", metavar="COST", min=0, help="Cost by `prices` after which a step stops."),
]
LlmGpus = Annotated[
    int | None, typer.Option("--gpus", metavar="N", min=1, help="Processes of a local: model, a GPU each.")
]
Input = Annotated[
    str | None, typer.Option("--input", metavar="INPUT", help="Data to start from: step:ID or a path.")
]
Fields = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="PART=FIELD,...",
        help="Fields of rows by other names: context=passage,answer=target.",
    ),
]
Preview = Annotated[
    int | None,
    typer.Option(
        "--preview",
        metavar="N",
        min=1,
        help="Show N rows decoded from the tokens training would see; train nothing.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="Make N examples in RUN-trial, show them, and say what all would take.",
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", metavar="TOKENIZER", help="A path or a hub id.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")]
Attn = Annotated[
    Literal["auto", "sdpa", "flash"] | None,
    typer.Option("--attn", help="Attention kernels; auto takes flash-attn where it is installed."),
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu or cuda[:N].")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Start over what is already there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show settings and costs; run nothing.")]

Gpus = Annotated[
    int | None, typer.Option("--gpus", metavar="N", help="Train in N processes on this machine, a GPU each.")
]
RunGpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", metavar="N", help="Processes of train steps and of local: models here, a GPU each."
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="STRATEGY",
        help="What they share: ddp, fsdp, zero2, zero3, or an accelerate config's path.",
    ),
]
Offload = Annotated[
    Literal["cpu"] | None, typer.Option("--offload", help="Where what is shared rests: the CPU's memory.")
]
Engine = Annotated[
    Literal["local", "ray", "slurm"] | None,
    typer.Option("--engine", help="Share steps out: processes here, Ray's tasks, or a Slurm array."),
]
Shards = Annotated[
    int | None, typer.Option("--shards", metavar="N", help="How many shards an engine cuts a step into.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="How many shards run at a time.")
]
OneShard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Do one shard of N by hand, from 0/N; any/N: free ones."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST", help="Ray's cluster (default: one on this machine)."),
]
Nodes = Annotated[
    str | None,
    typer.Option("--nodes", metavar="K", help="How many machines train together; auto: the scheduler's."),
]
Rank = Annotated[
    int | None, typer.Option("--rank", metavar="R", help="This machine's number, from 0; 0 leads.")
]
MainAddress = Annotated[
    str | None, typer.Option("--main-address", metavar="HOST", help="Where machine 0 is reached.")
]
MainPort = Annotated[
    int | None, typer.Option("--main-port", metavar="PORT", help="At which port (default: 29500).")
]
