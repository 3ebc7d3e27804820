"""The process between `lcx` and its workers: accelerate's launcher, without its tracebacks.

`python -m lcx.training.launch.host` takes the arguments of `accelerate launch`. What the workers did is in their
outcome files; here only those who left none, because a signal ended them, are noted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from lcx.process import die_with
from lcx.training.launch.worker import FOLDER, PARENT
from lcx.work.files import write_json

NOTE = "host.json"


def main(argv: Sequence[str]) -> int:
    """Start the workers, wait for them, and note how they ended."""
    warnings.simplefilter("ignore")
    folder = Path(os.environ[FOLDER])
    die_with(int(os.environ[PARENT]), folder)

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(list(argv)))
    except ChildFailedError as failed:
        ends = {str(rank): failure.exitcode for rank, failure in failed.failures.items()}
        write_json(folder / NOTE, {"ends": ends})
        return 1
    except Exception as bad:
        write_json(folder / NOTE, {"ends": {}, "error": f"{type(bad).__name__}: {bad}"})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
