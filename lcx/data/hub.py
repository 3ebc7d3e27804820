"""Rows of a Hugging Face dataset, streamed where the hub is reachable, else from the local cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lcx.data.readers import TEXT_FIELDS
from lcx.errors import MissingError, UsageError
from lcx.hub import out_of_reach


def hub_rows(
    name: str,
    config: str | None,
    split: str | None,
    columns: Sequence[str] | None = TEXT_FIELDS,
) -> Iterator[dict[str, Any]]:
    """Rows of a dataset's split (`train` by default), which must have one of `columns`, if any are given.

    Raises MissingError where it cannot be reached, UsageError for a wrong name, config or split, or rows
    without a text field.
    """
    data = _load(name, config, split or "train")
    has = getattr(data, "column_names", None)
    if has and columns and not set(columns) & set(has):
        raise UsageError(
            f"the dataset '{name}' has no text field",
            why=f"Its columns are {', '.join(has)}.",
            hint=f"Rename the column that holds the text to {TEXT_FIELDS[0]} and save it as JSONL.",
        )
    return _stream(name, data)


def dataset_revision(name: str) -> str:
    """The dataset's commit on the hub, or `unknown` where the hub does not answer."""
    if out_of_reach():
        return "unknown"
    try:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(name, timeout=5).sha)
    except Exception:  # offline, unknown or private: the name alone has to do
        return "unknown"


def _stream(name: str, data: Any) -> Iterator[dict[str, Any]]:
    rows = iter(data)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as bad:
            raise _unreachable(name, bad) from bad
        yield row


def _load(name: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as bad:
        raise MissingError(
            "the `datasets` library is not installed", hint="Run `pip install datasets`."
        ) from bad
    try:
        if not out_of_reach():
            return datasets.load_dataset(name, config, split=split, streaming=True)
        with _offline():
            return datasets.load_dataset(name, config, split=split)
    except ValueError as bad:
        raise UsageError(
            f"the dataset '{name}' cannot be opened as asked",
            why=str(bad).splitlines()[0],
            hint="Write hf:NAME[:CONFIG][@SPLIT] with a config and a split that it has.",
        ) from bad
    except Exception as bad:
        raise _unreachable(name, bad) from bad


@contextmanager
def _offline() -> Iterator[None]:
    """Make the libraries look into their caches only: they read the environment once, when imported."""
    import datasets
    import huggingface_hub.constants

    places = [datasets.config, huggingface_hub.constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _unreachable(name: str, bad: Exception) -> MissingError:
    return MissingError(
        f"the dataset '{name}' cannot be reached",
        why=f"{type(bad).__name__}: {(str(bad).splitlines() or [''])[0]}",
        hint=f"With a network run `hf download {name} --repo-type dataset --local-dir DIR`, then"
        " `--corpus DIR`; check the name and HF_TOKEN; `--corpus stdlib` needs no network.",
    )
