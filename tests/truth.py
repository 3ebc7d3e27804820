"""Where the truth is: outputs of real models with known scores, which nobody on this project wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_folder(name: str) -> Path:
    """A folder beside $LCX_TRUTH, or of `../shared` beside the repository, whether it is there or not."""
    default = Path(__file__).resolve().parents[2] / "shared" / "truth"
    return Path(os.environ.get("LCX_TRUTH") or default).parent / name


def truth_folder(name: str) -> Path:
    """A folder of $LCX_TRUTH or of `../shared/truth` beside the repository; skips where it is absent."""
    folder = Path(os.environ.get("LCX_TRUTH") or shared_folder("truth")) / name
    if not folder.is_dir():
        pytest.skip(f"no truth in {folder}")
    return folder
