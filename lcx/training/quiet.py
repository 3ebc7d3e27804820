"""Silence for the libraries' own logs and progress bars, while ours say what matters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as hf_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' own logs and bars; ours say what matters."""
    level = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    names = ("accelerate", "peft", "trl", "bitsandbytes", "datasets", "torch.distributed")
    levels = {name: logging.getLogger(name).level for name in names}
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
