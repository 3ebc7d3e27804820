"""`lcx score`: score, filter or pair data."""

from lcx.cli.stages import stage_app

app = stage_app(
    "score",
    "Score, filter or pair the data of an earlier step, for recipes that have such a step.",
    "lcx score --recipe logo",
    "lcx score --recipe in2 --judge openai:MODEL --base-url http://localhost:8000/v1",
    "lcx score --recipe longreward --input rows.jsonl --judge openai:MODEL --base-url http://localhost:8000/v1",
    "lcx score --recipe logo --judge local:PATH_OR_HUB_ID --dry-run",
)
