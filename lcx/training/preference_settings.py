"""Settings of a preference training step. Torch-free."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from lcx.data.rows import RowFields
from lcx.settings import FILE, setting
from lcx.training.settings import TrainSettings

__all__ = ["PreferenceSettings"]


class PreferenceSettings(TrainSettings):
    """What to train on chosen and rejected answers, with which loss and positions. A batch counts bundles."""

    short: str | None = setting(
        None,
        description="rows of short pairs (prompt, chosen, rejected) that are mixed into the data: JSONL or Parquet",
        json_schema_extra=FILE,
    )
    short_fields: RowFields = setting({}, description="as fields, for the short pairs")
    batch: int = setting(
        64, ge=1, description="contexts, each with its answers, an optimizer step, over all processes"
    )
    loss: str = setting("dpo", description="a registered loss: logo, simpo, dpo, orpo, or a plugin's")
    beta: float | None = setting(
        None, gt=0, description="sharpness of the preference; the loss's own default"
    )
    gamma: float | None = setting(None, ge=0, description="margin; the loss's own default")
    sft_weight: float | None = setting(
        None, ge=0, description="weight of the chosen answer's cross-entropy; the loss's own default"
    )
    loss_options: dict[str, Any] = setting({}, description="further options of the loss, by name")
    reference: Literal["auto", "adapter", "model", "cached"] = setting(
        "auto",
        description="where reference log-probs come from: the model without its adapter, a frozen copy, or "
        "computed once and kept on disk; auto is adapter for a new LoRA, else cached",
    )
    real_length: int | None = setting(None, ge=2, description="tokens a row may really have; as max_tokens")
    target_length: int | None = setting(
        None, ge=2, description="length that synthetic positions make the context act as; none by default"
    )
    sparse_share: float = setting(
        0.1, ge=0, le=1, description="share of bundles whose positions are sparse; the rest are continuous"
    )
    slot_tokens: int = setting(
        512, ge=1, description="real tokens a position slot holds at most; longer chunks take several"
    )

    @model_validator(mode="after")
    def _lengths(self) -> PreferenceSettings:
        if self.real_length and self.max_tokens and self.real_length != self.max_tokens:
            raise ValueError("real_length and max_tokens are the same limit; give one")
        return self
