"""An append-only journal: one JSON line a finished unit of work, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lcx.errors import LcxError
from lcx.work.files import disk_errors, json_line, make_folder


class Journal:
    """Units finished so far, on disk. `unit in journal` and `journal[unit]` look one up; the last entry wins.

    Opening it cuts off a last line that a kill tore, so the next append starts on a clean line. Only the
    place of each entry is kept in memory. Raises LcxError for a damaged line elsewhere, and for a full or
    read-only disk.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.torn = 0
        """Bytes of a torn last line that opening dropped."""
        self._offsets: dict[str, int] = {}
        self._end = self._scan() if self.path.exists() else 0
        self._file = None
        if not read_only:
            make_folder(self.path.parent)
            with disk_errors(self.path):
                self._file = self.path.open("ab", buffering=0)
                if self.torn:
                    self._file.truncate(self._end)

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add entries (each needs `unit`) in one write that is on disk when this returns."""
        self.extend(entries)

    def extend(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add many entries with a single sync."""
        if self._file is None:
            raise ValueError(f"{self.path} is open for reading only")
        units, lines = [], []
        for entry in entries:
            units.append(str(entry["unit"]))
            lines.append(json_line(dict(entry)))
        if not lines:
            return
        data = memoryview(b"".join(lines))
        with disk_errors(self.path):
            try:
                done = 0
                while done < len(
                    data
                ):  # an unbuffered write may take only a part, e.g. on a disk that fills up
                    done += self._file.write(data[done:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._end)  # a batch is in the journal whole or not at all
                raise
        place = self._end
        for unit, line in zip(units, lines, strict=True):
            self._offsets[unit] = place
            place += len(line)
        self._end = place

    def __contains__(self, unit: object) -> bool:
        return str(unit) in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, unit: str) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._offsets[str(unit)])
            return json.loads(file.readline())

    def get(self, unit: str) -> dict[str, Any] | None:
        """The last entry of a unit, or None where it has none."""
        return self[unit] if str(unit) in self._offsets else None

    @property
    def done(self) -> frozenset[str]:
        """Names of all units that have an entry."""
        return frozenset(self._offsets)

    def entries(self) -> Iterator[dict[str, Any]]:
        """The last entry of every unit, in the order of their places in the file; read lazily."""
        if not self._offsets:
            return
        with self.path.open("rb") as file:
            for offset in sorted(self._offsets.values()):
                file.seek(offset)
                yield json.loads(file.readline())

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scan(self) -> int:
        """Index every entry; return the end of the last whole line."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # Only the last line can lack a newline: that is the mark of an append that a kill cut short.
                if not line.endswith(b"\n"):
                    self.torn = len(line)
                    break
                try:
                    unit = str(json.loads(line)["unit"])
                except (ValueError, KeyError, TypeError) as bad:
                    rest = file.read(1)
                    if not rest:  # pages of a last line may reach the disk out of order in a power cut
                        self.torn = len(line)
                        break
                    raise LcxError(
                        f"{self.path}: line {number} is damaged",
                        why=str(bad),
                        hint="Remove that line (its unit is then done again), or start over with --force.",
                    ) from bad
                self._offsets[unit] = end
                end += len(line)
        return end
