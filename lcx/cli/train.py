"""`lcx train`: train a model."""

from lcx.cli.stages import stage_app

app = stage_app(
    "train",
    "Train a model on the data of an earlier step; interrupted training resumes with the same command.",
    "lcx train --recipe in2-tiny",
    "lcx train --recipe in2 --model PATH_OR_HUB_ID --set train.batch=64",
    "lcx train --recipe in2 --dry-run",
)
