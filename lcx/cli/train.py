"""`lcx train`: train a model, in this process or in several."""

from __future__ import annotations

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)


@app.command(
    name="train",
    epilog=opt.examples(
        "lcx train --recipe in2-tiny",
        "lcx train --recipe in2 --model PATH_OR_HUB_ID --set train.batch=64",
        "lcx train --recipe in2 --gpus 8 --strategy fsdp",
        "lcx train --recipe in2 --dry-run",
        "lcx train --recipe in2 --model PATH --input rows.jsonl --preview 3",
        after="Several GPUs and machines: docs/multi-gpu.md; `lcx presets` lists the strategies' files.",
    ),
)
def train(
    recipe: opt.Recipe,
    step: opt.StepId = None,
    run: opt.RunDir = None,
    sets: opt.Sets = None,
    model: opt.Model = None,
    corpus: opt.Corpus = None,
    llm: opt.Llm = None,
    input: opt.Input = None,
    fields: opt.Fields = None,
    tokenizer: opt.Tokenizer = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    attn: opt.Attn = None,
    gpus: opt.Gpus = None,
    strategy: opt.Strategy = None,
    offload: opt.Offload = None,
    nodes: opt.Nodes = None,
    rank: opt.Rank = None,
    main_address: opt.MainAddress = None,
    main_port: opt.MainPort = None,
    preview: opt.Preview = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train a model on the data of an earlier step; interrupted training resumes with the same command."""
    from lcx.cli.stages import preview_stage, run_stage
    from lcx.cli.work import Request
    from lcx.training.plan import LaunchOptions

    flags = {
        "model": model,
        "corpus": corpus,
        "llm": llm,
        "input": input,
        "fields": fields,
        "tokenizer": tokenizer,
        "seed": seed,
        "attn": attn,
    }
    request = Request(recipe, run, sets or (), flags, device, force, dry_run, json)
    if preview is not None:
        preview_stage(step, request, preview)
        return
    run_stage(
        "train", step, request, LaunchOptions(gpus, strategy, offload, nodes, rank, main_address, main_port)
    )
