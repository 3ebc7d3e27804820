"""A long job under load: memory, open files, throughput and journals, from its first tenth to its end.

    python benchmarks/load.py --json benchmarks/results/load-cpu2.json

`lcx score` of LongReward judges DOCUMENTS x CANDIDATES answers by a server on loopback that answers at once and knows
its verdicts (the scripted judge of the tests), so that nothing but lcx and the server is measured. The job is a process
of its own, looked at every second: resident memory, file descriptors, and the calls that the server has answered. The
rewards are asserted to be those of the script before anything is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import machine
from rich.console import Console
from rich.table import Table

from lcx.data.bundles import write_bundles
from lcx.records import Branch, Bundle
from tests.llm.stub_server import Stub, prompt_of
from tests.plugins.longreward import scripted_judge


class Counted(list[Any]):
    """Takes what a test's server keeps of every request, and keeps only when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.came = array("d")

    @property
    def count(self) -> int:
        return len(self.came)

    def append(self, _: Any) -> None:
        self.came.append(time.perf_counter())


def served() -> Stub:
    """The server of the tests, without its memory of all that it was asked."""
    stub = Stub(lambda body: scripted_judge.reply(prompt_of(body)))
    stub.bodies, stub.headers, stub.times = Counted(), Counted(), Counted()
    stub.good.update = stub.good.__setitem__ = lambda *_: None  # type: ignore[assignment, method-assign]
    return stub


def write_data(folder: Path, documents: int, candidates: int) -> None:
    """The scripted rows as a synth step leaves them, a document at a time."""

    def bundles() -> Any:
        for number in range(documents):
            row = scripted_judge.row(number, candidates)
            branches = tuple(Branch(row["query"], text, "candidate") for text in row["answers"])
            yield Bundle(row["id"], branches, context=row["context"], kind="rows")

    write_bundles(folder, bundles(), name="candidates")


def look(process: int) -> tuple[int, int, float]:
    """Bytes in memory, open files and seconds of CPU time of a process; zeros where it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        spent = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{process}/fd")), spent
    except OSError:
        return 0, 0, 0.0


def watched(process: subprocess.Popen[bytes], calls: Counted, every: float) -> list[dict[str, float]]:
    """What the job had and did, every so many seconds until it ends."""
    began = time.perf_counter()
    found = []
    while process.poll() is None:
        memory, files, spent = look(process.pid)
        if memory:
            seconds = time.perf_counter() - began
            about = {"memory": memory, "files": files, "cpu": spent}
            found.append({"seconds": seconds, "calls": calls.count, **about})
        time.sleep(every)
    # Calls that came after the last look count too; the process is gone, so memory and files are that look's.
    return [*found, {**found[-1], "seconds": time.perf_counter() - began, "calls": calls.count}]


def at_share(seen: list[dict[str, float]], share: float) -> dict[str, float]:
    """What was seen when a share of all calls had been made."""
    total = seen[-1]["calls"]
    return next(one for one in seen if one["calls"] >= share * total and one["calls"])


def rates_by_fifths(came: Sequence[float]) -> list[float]:
    """Calls a second in each fifth of the calls, from the moments at which they came.

    The moments are the server's own: looks at the job may be further apart than a short job is long.
    """
    moments = sorted(came)
    last = len(moments) - 1
    places = [last * share // 5 for share in range(6)]
    return [(high - low) / max(moments[high] - moments[low], 1e-9) for low, high in pairwise(places)]


def cost_by_fifths(seen: Sequence[dict[str, float]]) -> list[float]:
    """Milliseconds of the job's CPU time a call in each fifth of the calls, which others on the machine hardly change.

    A job too short to be looked at twice in a fifth has 0 there.
    """
    places = [at_share(list(seen), share / 5) for share in range(6)]
    return [
        1000 * (high["cpu"] - low["cpu"]) / max(high["calls"] - low["calls"], 1)
        for low, high in pairwise(places)
    ]


def summary(
    seen: list[dict[str, float]], came: Sequence[float], folder: Path, documents: int, candidates: int
) -> dict[str, Any]:
    """Growth and throughput by fifths of the calls, and what lies on disk."""
    done = next(one for one in seen if one["calls"] == seen[-1]["calls"])
    seen = [one for one in seen if one["seconds"] <= done["seconds"]]
    rates = rates_by_fifths(came)
    tenth = at_share(seen, 0.1)
    later = [one for one in seen if one["calls"] >= tenth["calls"]]
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        "documents": documents,
        "answers": documents * candidates,
        "calls": len(came),
        "seconds": done["seconds"],
        "calls_a_second": rates,
        "last_fifth_over_first": rates[-1] / rates[0],
        "cpu_ms_a_call": cost_by_fifths(seen),
        "memory_at_tenth": tenth["memory"],
        "memory_most_after": max(one["memory"] for one in later),
        "memory_growth": max(one["memory"] for one in later) / tenth["memory"] - 1,
        "files_at_tenth": tenth["files"],
        "files_most_after": max(one["files"] for one in later),
        "bytes": sizes,
    }


def check(folder: Path, documents: int, candidates: int) -> None:
    """Assert that every answer has the reward that the script gives it."""
    seen = 0
    with (folder / "scores.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            number, answer = map(int, scripted_judge.NAME.findall(row["answer"])[0])
            want = scripted_judge.expected(number, answer)["reward"]
            assert abs(row["reward"] - want) < 1e-6, (row, want)
            seen += 1
    assert seen == documents * candidates, (seen, documents * candidates)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make the data, run the job under watch, check what it found."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch, served() as stub:
        place = Path(scratch)
        write_data(place / "data", options.documents, options.candidates)
        recipe = scripted_judge.recipe(
            place / "load.yaml",
            input=str(place / "data"),
            tokenizer="simple",
            base_url=stub.url,
            concurrency=options.in_flight,
        )
        words = ["score", "--recipe", str(recipe), "--run", str(place / "run"), "-q"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2]), "OPENAI_API_KEY": "none"}
        job = subprocess.Popen([sys.executable, "-m", "lcx", *words], env=environment)
        assert isinstance(stub.bodies, Counted)
        seen = watched(job, stub.bodies, options.every)
        assert job.returncode == 0, job.returncode
        check(place / "run/score", options.documents, options.candidates)
        return summary(seen, stub.bodies.came, place / "run/score", options.documents, options.candidates)


def show(found: dict[str, Any], console: Console) -> None:
    table = Table("", "load", show_header=True)
    for name, value in found["load"].items():
        if name == "bytes":
            continue
        text = ", ".join(f"{one:,.0f}" for one in value) if isinstance(value, list) else f"{value:,.3f}"
        if name == "cpu_ms_a_call":
            text = ", ".join(f"{one:.2f}" for one in value)
        table.add_row(name, text)
    for name, size in found["load"]["bytes"].items():
        table.add_row(name, f"{size / 1e6:,.1f} MB")
    console.print(table)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse flags, measure, print, and write JSON where asked."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--json", type=Path)
    made.add_argument("--documents", type=int, default=10_000)
    made.add_argument("--candidates", type=int, default=10)
    made.add_argument("--in-flight", type=int, default=64)
    made.add_argument("--every", type=float, default=1.0, help="seconds between looks")
    made.add_argument("--scratch", default=None, help="folder for the data, the run and its journals")
    options = made.parse_args(argv)
    about = machine("openai", "httpx2")
    found: dict[str, Any] = {"benchmark": "load", "machine": about}
    found["settings"] = {"in_flight": options.in_flight}
    found["load"] = run(options)
    about["load_after"] = round(os.getloadavg()[0], 2)
    show(found, Console())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    main()
