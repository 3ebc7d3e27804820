"""`lcx synth`: make data."""

from lcx.cli.stages import stage_app

app = stage_app(
    "synth",
    "Make training data: long contexts with questions and answers, written into the run's folder.",
    "lcx synth --recipe in2-tiny",
    "lcx synth --recipe in2 --corpus docs/ --llm local:PATH_OR_HUB_ID",
    "lcx synth --recipe in2 --llm openai:MODEL --base-url http://localhost:8000/v1 --max-calls 1000",
    "lcx synth --recipe in2 --set synth.seed=1 --run runs/second --dry-run",
)
