"""Settings of every step that reads a corpus. Torch-free: it is imported to list and check recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.settings import FILE, Settings, setting

FIXED = "It is fixed now: {}. Leave it out."
"""What is said of a setting of earlier versions that is a constant now."""


class CorpusSettings(Settings):
    """Which texts a step reads, how their tokens are counted, and into how many files its data is cut.

    A method's settings inherit from it beside `lcx.llm.settings.Calling`; `StepWork.table` and `.shards` read them.
    """

    corpus: str = setting("stdlib", description="a file, a folder, hf:NAME, stdlib, or stdlib:records")
    fields: RowFields = setting({}, description=FIELDS_HELP)
    encoding: Literal["utf-8", "auto"] = setting(
        "utf-8",
        description="of the corpus' text files; auto takes what is no UTF-8 for Windows' Western encoding",
    )
    documents: int | None = setting(None, ge=1, description="read at most so many documents (or rows)")
    tokenizer: str = setting(
        "simple",
        description="counts tokens: `simple` (no download) or a model's path or id",
        json_schema_extra=FILE,
    )
    decontaminate: list[str] = setting(
        [],
        description="files of evaluation items; documents that share text are dropped",
        json_schema_extra=FILE,
    )
    shards: int = setting(1, ge=1, description="files that the bundles are cut into")
    seed: int = setting(0, description="everything random follows from it")

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        """Settings of earlier versions that are constants now."""
        return {**super().names_elsewhere(), "ngram": FIXED.format("10 words")}
