"""What a benchmark's numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def version_of(library: str) -> str:
    """A library's version; a run that does without it says that it is not there."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def machine(*libraries: str) -> dict[str, Any]:
    """Processor, cores, load, system, Python, and the versions of the libraries that the numbers depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in libraries},
    }
