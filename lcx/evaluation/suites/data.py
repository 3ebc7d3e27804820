"""A suite's published rows: from a folder, a file, an archive or a dataset by name.

| `data` | what is read |
|---|---|
| a folder | SET.jsonl, SET.json or SET.parquet in it, or in its subfolder `data`, or in a `data.zip` |
| a `.jsonl`, `.json` or `.parquet` file | its rows; of those with a `dataset` field, the set's own |
| a `.zip` file | SET.jsonl in it, wherever |
| `hf:NAME[:CONFIG][@SPLIT]` | through the `datasets` library; CONFIG is the set unless given, SPLIT `test` |
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError
from lcx.evaluation.saved.reading import parse_rows, read_rows

__all__ = ["Source", "read_published", "read_source"]

ENDINGS = (".jsonl", ".json", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What is read for one task.

    `names` are what its file may be called, in order of preference; `dataset` is what its rows' field of that name
    says; `config` and `split` go to `datasets`; `gets` is the command that gets the data (empty where `datasets` gets
    it by itself), and `place` what is then named.
    """

    task: str
    family: str
    names: tuple[str, ...]
    gets: str
    place: str
    dataset: tuple[str, ...] = ()
    config: str | None = None
    split: str = "test"

    def missing(self, what: str, why: str = "") -> MissingError:
        line = f"--set eval.data.{self.family}={self.place}"
        return MissingError(what, why=why, hint=f"{self.gets}\nthen: {line}" if self.gets else line)


def read_source(source: Source, data: str | None) -> list[Row]:
    """The rows of a task. Raises MissingError where they are not there, UsageError naming a broken line."""
    if data is None:
        raise source.missing(f"no data for {source.task}", "It is published elsewhere, and nothing names it.")
    if data.startswith("hf:"):
        return _hub(source, data)
    place = Path(data).expanduser()
    if place.is_dir():
        return _own(source, _folder(source, place))
    if not place.is_file():
        raise source.missing(f"no data for {source.task} at '{data}'")
    rows = _archive(source, place) if place.suffix.lower() == ".zip" else read_published(place)
    if not rows:
        raise UsageError(f"{data} has no row", hint=f"{source.task} reads one question a row.")
    own = _own(source, rows)
    if not own:
        raise source.missing(f"no row of {data} is of {source.task}", f"Its rows are of {_datasets(rows)}.")
    return own


def read_published(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON or Parquet file. Raises UsageError naming a broken line."""
    if path.suffix.lower() != ".parquet":
        return read_rows(path)
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return [row for batch in file.iter_batches(256) for row in batch.to_pylist()]
    except (OSError, ValueError) as bad:  # pyarrow's own errors are ValueErrors
        raise UsageError(f"cannot read {path}", why=str(bad).splitlines()[0]) from None


def _folder(source: Source, folder: Path) -> list[Row]:
    for inside in (folder, folder / "data"):
        for name in source.names:
            for ending in ENDINGS:
                if (inside / f"{name}{ending}").is_file():
                    return read_published(inside / f"{name}{ending}")
    for archive in (folder / "data.zip", folder / "LongBench.zip"):
        if archive.is_file():
            return _archive(source, archive)
    there = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
    shown = ", ".join(there[:6]) + (", ..." if len(there) > 6 else "")
    raise source.missing(
        f"no {source.names[0]}.jsonl in {folder} for {source.task}",
        f"It has {shown}." if there else "It has no JSONL, JSON or Parquet file.",
    )


def _archive(source: Source, path: Path) -> list[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {Path(name).name: name for name in archive.namelist() if "__MACOSX" not in name}
            for name in source.names:
                for ending in ENDINGS[:2]:
                    if f"{name}{ending}" in inside:
                        return parse_rows(archive.read(inside[f"{name}{ending}"]), f"{path}/{name}{ending}")
    except (OSError, zipfile.BadZipFile) as bad:
        raise UsageError(f"cannot read {path}", why=str(bad)) from None
    raise source.missing(f"no {source.names[0]}.jsonl in {path} for {source.task}")


def _hub(source: Source, data: str) -> list[Row]:
    """Rows through `datasets`; a dataset that is only a script and an archive is read from the archive."""
    from lcx.data.documents import hub_name
    from lcx.data.hub import hub_rows

    name, config, split = hub_name(data)
    try:
        return list(hub_rows(name, config or source.config, split or source.split, columns=None))
    except LcxError as bad:
        rows = _zipped(name, source.names) if config is None else None
        if rows is None:
            raise source.missing(f"no data for {source.task} at '{data}'", bad.why or bad.what) from bad
        return rows


def _zipped(name: str, sets: Sequence[str]) -> list[Row] | None:
    """Rows out of a dataset's `data.zip`, as LongBench publishes them; None where there is none to be had."""
    from lcx.hub import out_of_reach

    local = Path(name).is_dir()
    if not local and out_of_reach():
        return None
    import datasets

    archive = f"{name}/data.zip" if local else f"hf://datasets/{name}/data.zip"
    for one in sets:
        inside = f"zip://data/{one}.jsonl::{archive}"
        try:
            return list(datasets.load_dataset("json", data_files=inside, split="train", streaming=True))
        except Exception:  # whatever its readers raise: the first failure is the one to report
            continue
    return None


def _own(source: Source, rows: Sequence[Row]) -> list[Row]:
    """The rows of the set, where they say what set they are of."""
    if not source.dataset:
        return list(rows)
    return [row for row in rows if row.get("dataset") in (None, "", *source.dataset)]


def _datasets(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({str(row.get("dataset")) for row in rows})[:8])
