"""`lcx score`: score, filter or pair data."""

from lcx.cli.stages import stage_app

app = stage_app(
    "score",
    "Score, filter or pair the data of an earlier step, for recipes that have such a step.",
    "lcx score --recipe longreward",
    "lcx score --recipe longreward --llm openai:MODEL --base-url http://localhost:8000/v1",
)
