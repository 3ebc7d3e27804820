"""Settings of training steps, and what follows from them alone: a step's shape, the steps in all, the rate's schedule.

Torch-free. The defaults of supervised training are the IN2 paper's where it gives any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.data.templates import load_template
from lcx.errors import UsageError, suggestion
from lcx.modeling.rope import check_rope
from lcx.modeling.support import LENGTH_ROPE
from lcx.plugins import CORE
from lcx.settings import FILE, Settings, setting

if TYPE_CHECKING:
    from lcx.plugins import Plugins

_VOLATILE: dict[str, Any] = {"volatile": True}


NAMES_ELSEWHERE = {
    **{
        theirs: f"Here it is '{ours}'."
        for theirs, ours in {
            "lr": "learning_rate",
            "num_train_epochs": "epochs",
            "num_epochs": "epochs",
            "lr_scheduler_type": "schedule",
            "scheduler": "schedule",
            "warmup_ratio": "warmup",
            "warmup_steps": "warmup",
            "optim": "optimizer",
            "lora_rank": "lora_r",
            "target_modules": "lora_targets",
            "lora_target": "lora_targets",
            "modules_to_save": "lora_whole",
            "max_length": "max_tokens",
            "max_seq_length": "max_tokens",
            "cutoff_len": "max_tokens",
            "finetuning_type": "tuning",
            "attn_implementation": "attn",
            "data_seed": "seed",
            **dict.fromkeys(
                ("sequence_len", "model_max_length", "max_source_length", "block_size"), "max_tokens"
            ),
            **dict.fromkeys(("base_model", "model_name_or_path", "pretrained_model_name_or_path"), "model"),
            **dict.fromkeys(("dataset", "datasets", "dataset_name", "train_file", "data_path"), "input"),
            **dict.fromkeys(("val_size", "val_set_size"), "eval_share"),
            **dict.fromkeys(("flash_attn", "flash_attention", "use_flash_attention_2"), "attn"),
            "micro_batch_size": "micro_batch",
        }.items()
    },
    "per_device_train_batch_size": "Here 'micro_batch' counts contexts a forward pass, 'batch' a whole optimizer step.",
    "gradient_accumulation_steps": "Here it follows: 'batch' counts a whole optimizer step over all processes, "
    "'micro_batch' a forward pass.",
    "train_batch_size": "Here it is 'batch', a whole optimizer step over all processes.",
    "load_in_4bit": "Here it is 'tuning': qlora trains adapters on 4-bit weights.",
    **dict.fromkeys(
        ("load_in_8bit", "quantization_bit"),
        "Here 'tuning': qlora trains adapters on 4-bit weights. lcx has no 8-bit training.",
    ),
    **dict.fromkeys(("use_peft", "adapter"), "Here it is 'tuning': lora or qlora."),
    "deepspeed": "Here it is the flag --strategy: zero2, zero3 or the path of a config.",
    "fsdp": "Here it is the flag --strategy: fsdp or the path of a config.",
    **dict.fromkeys(
        ("packing", "sample_packing"),
        "Here all answers about one context are packed behind it without a setting.",
    ),
    **dict.fromkeys(
        ("eval_strategy", "evaluation_strategy"),
        "Here 'eval_share' or 'eval_input' asks for it, 'eval_steps' says how often.",
    ),
    "save_strategy": "Here 'save_steps' says how often.",
    "bf16": "Here it is 'precision': bf16.",
    "fp16": "Here it is 'precision': fp16.",
    "output_dir": "Here it is the flag --run.",
}
"""Settings of other trainers, and the sentence that leads to ours."""
OPTIMIZERS_ELSEWHERE = {
    "adam": "adamw_torch",
    "adamw": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_fused": "adamw_torch_fused",
    "adam8bit": "adamw_8bit",
    "adamw8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw8bit": "paged_adamw_8bit",
    "lion": "lion_32bit",
}
"""What other trainers call optimizers that transformers has under another name."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "logo": (
        {"beta": Positive, "gamma": NotNegative, "sft_weight": NotNegative},
        {"beta": 10.0, "gamma": 3.0, "sft_weight": 0.1},
    ),
    "simpo": (
        {"beta": Positive, "gamma": NotNegative, "sft_weight": NotNegative},
        {"beta": 2.0, "gamma": 1.0, "sft_weight": 0.0},
    ),
    "dpo": (
        {"beta": Positive, "sft_weight": NotNegative, "ce": Literal["token", "sum"]},
        {"beta": 0.1, "sft_weight": 0.0, "ce": "token"},
    ),
    "orpo": ({"beta": Positive}, {"beta": 0.1}),
}
"""Options of the core's losses, what each may be, and its default: here, since dry runs check them without torch."""
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "lora_whole")


class TrainSettings(Settings):
    """Settings of a supervised training step; a batch counts branches, over all processes."""

    model: str | None = setting(None, description="the model to train: tiny, a path, a hub id or step:ID")
    input: str | None = setting(
        None, description="the data: step:ID, a folder of bundles, or rows (a file, a folder, hf:NAME)"
    )
    fields: RowFields = setting({}, description=FIELDS_HELP)
    engine: Literal["shared-prefix", "trl"] = setting(
        "shared-prefix", description="shared-prefix pays for a context once; trl trains one row a branch"
    )
    epochs: float = setting(1.0, gt=0, description="passes over the data")
    max_steps: int = setting(-1, ge=-1, description="optimizer steps; -1 for as many as the epochs have")
    batch: int = setting(
        128, ge=1, description="branches (question and answer) an optimizer step, over all processes"
    )
    micro_batch: int = setting(1, ge=1, description="contexts packed into one forward pass")
    learning_rate: float = setting(1e-6, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting(
        "cosine", description="learning-rate schedule"
    )
    warmup: float = setting(0.03, ge=0, description="share of the steps; from 1 on, a number of steps")
    weight_decay: float = setting(0.0, ge=0, description="weight decay")
    optimizer: str = setting("adamw_torch", description="an optimizer by its name in transformers")
    max_grad_norm: float = setting(1.0, ge=0, description="clip gradients to this norm; 0 for no clipping")
    tuning: Literal["full", "lora", "qlora"] = setting("full", description="which weights are trained")
    lora_r: int = setting(32, ge=1, description="rank of LoRA")
    lora_alpha: int = setting(64, ge=1, description="scale of LoRA: alpha / r")
    lora_dropout: float = setting(0.0, ge=0, lt=1, description="dropout before the adapters")
    lora_targets: tuple[str, ...] = setting(
        ("all-linear",), description="modules that get adapters, by name; all-linear for all but the head"
    )
    lora_whole: tuple[str, ...] = setting(
        (), description="modules that are trained whole beside the adapters, by name: embed_tokens"
    )
    gradient_checkpointing: bool = setting(True, description="recompute activations: less memory, more time")
    precision: Literal["auto", "bf16", "fp32", "fp16"] = setting(
        "auto", description="of the computation; auto is bf16 where the device has it, else fp32"
    )
    rope_theta: float | None = setting(
        None, gt=0, description="base of the rotary positions; the model's own"
    )
    rope: dict[str, Any] = setting(
        {},
        description="other rotary settings, merged into the model's: {rope_type: yarn, factor: 8}, "
        "{max_position_embeddings: 65536}",
    )
    attn: Literal["auto", "sdpa", "flash"] = setting(
        "auto",
        description="attention kernels: flash needs flash-attn; auto takes it where it is there",
        json_schema_extra=_VOLATILE,
    )
    max_tokens: int | None = setting(None, ge=2, description="tokens a row may have; the model's window")
    too_long: Literal["error", "drop", "truncate-middle"] = setting(
        "error", description="what to do with a row of more tokens than that"
    )
    template: str = setting("in2", description="template of context, question and answer: a name or a file")
    chat: Literal["auto", "always", "never"] = setting(
        "auto", description="use the tokenizer's chat template; auto where it has one"
    )
    loss_weighting: Literal["branch", "token"] = setting(
        "branch", description="branch: every answer counts alike; token: every answer token does"
    )
    seed: int = setting(0, ge=0, description="order of the data, and dropout")
    save_steps: int = setting(
        200, ge=0, description="steps between checkpoints; 0 for none", json_schema_extra=_VOLATILE
    )
    save_total_limit: int = setting(
        2, ge=1, description="checkpoints that are kept", json_schema_extra=_VOLATILE
    )
    eval_share: float = setting(
        0.0, ge=0, lt=1, description="share of the contexts that is held out; its loss is in the curve"
    )
    eval_input: str | None = setting(
        None, description="held-out data of its own, as input is given", json_schema_extra=FILE
    )
    eval_steps: int = setting(
        100, ge=1, description="steps between held-out losses", json_schema_extra=_VOLATILE
    )
    longest_first: bool = setting(
        False, description="begin with the longest rows, so that too little memory shows in the first step"
    )
    keep_checkpoints: bool = setting(
        False, description="keep the checkpoints of a training that is done", json_schema_extra=_VOLATILE
    )
    save_precision: Literal["auto", "bf16", "fp16", "fp32"] = setting(
        "auto", description="of the saved weights of full training; auto is the base's own"
    )
    logging_steps: int = setting(
        10, ge=1, description="steps between points of the loss curve", json_schema_extra=_VOLATILE
    )
    report_to: tuple[str, ...] = setting(
        (), description="trackers: tensorboard, wandb, mlflow ...", json_schema_extra=_VOLATILE
    )
    dataloader_workers: int = setting(
        0, ge=0, description="processes that prepare batches", json_schema_extra=_VOLATILE
    )

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        """What transformers', TRL's and LLaMA-Factory's trainers call these settings."""
        return NAMES_ELSEWHERE

    @field_validator("lora_targets", "lora_whole", "report_to", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`--set train.report_to=wandb,tensorboard` gives a list too."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip() and part.strip() != "none"]
        return value

    def check_names(self, plugins: Plugins) -> None:
        """The template, and other trainers' names of optimizers. Which others there are, transformers knows alone."""
        super().check_names(plugins)
        load_template(self.template)
        if ours := OPTIMIZERS_ELSEWHERE.get(self.optimizer.lower()):
            raise UsageError(f"unknown optimizer '{self.optimizer}'. Did you mean '{ours}'?")

    def unused(self) -> Mapping[str, tuple[str, str]]:
        """LoRA's settings where all weights are trained."""
        why = "tuning is full: all weights are trained, and there are no adapters."
        return dict.fromkeys(LORA, (why, "tuning=lora")) if self.tuning == "full" else {}

    def unused_lora(self) -> str:
        """A sentence on LoRA's settings that full training does not read, where they were changed; else empty."""
        fields = type(self).model_fields
        changed = [name for name in LORA if getattr(self, name) != fields[name].default]
        if self.tuning != "full" or not changed:
            return ""
        return f"tuning is full: {', '.join(changed)} will not be used (tuning: lora trains adapters)"

    @field_validator("rope")
    @classmethod
    def _known_rope(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_rope(value)

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if not self.lora_targets:
            raise ValueError("lora_targets: name at least one module")
        if self.max_steps == 0:
            raise ValueError("max_steps: 0 steps train nothing; -1 takes as many as the epochs have")
        if self.rope_theta is not None and self.rope.get("rope_theta", self.rope_theta) != self.rope_theta:
            raise ValueError("rope_theta is given twice, inside rope too; give one")
        if self.eval_share and self.eval_input:
            raise ValueError("eval_share and eval_input both name what is held out; give one")
        if self.engine == "trl" and (self.eval_share or self.eval_input or self.longest_first):
            raise ValueError("eval_share, eval_input and longest_first need engine shared-prefix")
        kind = self.rope.get("rope_type")
        if self.engine == "shared-prefix" and kind in LENGTH_ROPE:
            raise ValueError(
                f"rope: the positions of rope_type {kind} change with the length of the row, which engine "
                "shared-prefix cannot follow; choose yarn or linear, or engine trl"
            )
        return self


class PreferenceSettings(TrainSettings):
    """Settings of a preference training step: loss, reference and positions besides. A batch counts bundles."""

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

    def check_target(self, window: int) -> None:
        """Raise UsageError where the target length lies beyond the model's window."""
        if self.target_length and self.target_length > window:
            raise UsageError(
                f"the target length {self.target_length:,} lies beyond the model's window of {window:,}",
                why="Synthetic positions go up to the target length, and the rotary settings end at the window.",
                hint=f"--set train.rope='{{max_position_embeddings: {self.target_length}}}' (with a larger "
                "rope_theta, or rope_type yarn), or a lower target_length",
            )

    def given_options(self) -> dict[str, Any]:
        """The loss's options that are set, by name."""
        named = {"beta": self.beta, "gamma": self.gamma, "sft_weight": self.sft_weight}
        return {name: value for name, value in named.items() if value is not None} | self.loss_options

    def check_names(self, plugins: Plugins) -> None:
        """The loss, its options, and the target length where the model's config is here.

        A plugin's loss is imported where options are set for it, the core's is not.
        """
        super().check_names(plugins)
        from lcx.forecast.model import known_window  # most commands look at no model

        if self.target_length and self.model and (known := known_window(self.model, self.rope)):
            self.check_target(known)
        plugins.losses.get(self.loss)
        given = self.given_options()
        if self.loss in LOSSES and plugins.losses.owner(self.loss) == CORE:
            hints, defaults = LOSSES[self.loss]
            checked_options(self.loss, defaults, hints, given)
        elif given and hasattr(loss := plugins.losses.load(self.loss), "compute"):
            checked_options(self.loss, loss.defaults, option_hints(loss.compute), given)

    @model_validator(mode="after")
    def _lengths(self) -> PreferenceSettings:
        if self.real_length and self.max_tokens and self.real_length != self.max_tokens:
            raise ValueError("real_length and max_tokens are the same limit; give one")
        return self


def option_hints(compute: Any) -> dict[str, Any]:
    """What a function's annotations say that its options may be; empty where a stranger's do not resolve."""
    try:
        return get_type_hints(compute, include_extras=True)
    except (NameError, TypeError):
        return {}


def checked_options(
    loss: str, defaults: Mapping[str, Any], hints: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A loss's defaults with the given options, each checked by its hint or its default's type; None is no value.

    Raises UsageError for an option that the loss does not have, or a value that it cannot take.
    """
    options = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            near = suggestion(name, defaults)
            raise UsageError(
                f"the loss '{loss}' has no option '{name}'{'. ' if near else ''}{near}",
                why=f"it has: {', '.join(sorted(defaults)) or 'none'}",
                hint="`lcx recipes show NAME --origin` prints where the value comes from.",
            )
        default = defaults[name]
        if value is None:
            continue
        if isinstance(value, bool) and isinstance(default, int | float) and not isinstance(default, bool):
            raise UsageError(f"the loss '{loss}': '{name}' is a number, not {value!r}")
        hint = hints.get(name)
        if hint is None:
            hint = Any if default is None else type(default)
        try:
            options[name] = TypeAdapter(hint).validate_python(value)
        except ValidationError as bad:
            message = bad.errors()[0]["msg"]
            raise UsageError(
                f"the loss '{loss}': '{name}': {message[:1].lower()}{message[1:]}, not {value!r}"
            ) from None
    return options


class StepShape(NamedTuple):
    """The make-up of an optimizer step: bundles a forward pass, passes a process, bundles a step over all processes."""

    micro: int
    passes: int
    bundles: int


def step_shape(batch: int, micro: int, processes: int, mean_branches: float) -> StepShape:
    """Bundles a step so that a step has about `batch` branches: the nearest number to batch / mean branches.

    The number of bundles is the same in every step, so where branch counts differ a step's branches vary
    around `batch`; the loss divides by what a step really has. At least one bundle a process is taken, and
    the number is rounded to full passes of `micro` bundles on every process (`micro` is cut where a step
    has fewer).
    """
    wanted = max(1, round(batch / mean_branches))
    micro = max(1, min(micro, wanted // processes))
    passes = max(1, round(wanted / (micro * processes)))
    return StepShape(micro, passes, micro * passes * processes)


def optimizer_steps(bundles: int, shape: StepShape, epochs: float, max_steps: int = -1) -> int:
    """Optimizer steps of a training, as transformers counts them; `max_steps` above 0 decides alone."""
    if max_steps > 0:
        return max_steps
    return max(1, math.ceil(epochs * max(1, -(-bundles // shape.bundles))))


def warmup_steps(warmup: float, steps: int) -> int:
    """Steps of warm-up in a training of `steps`: a share of them (rounded up), or from 1 on their number.

    At least one step is left to train at the full rate: a training of one step has no warm-up.
    """
    wanted = int(warmup) if warmup >= 1 else math.ceil(warmup * steps)
    return max(0, min(wanted, steps - 1))


def rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """The share of the peak rate at which step number `step` of `steps` (from 0) is taken.

    During `warmup` steps it climbs in equal parts from 1 / (warmup + 1): transformers begins at 0, and the first step
    trains nothing. Behind them it is transformers' schedule of that name. `constant` knows no warm-up.
    """
    if schedule == "constant":
        return 1.0
    if step < warmup:
        return (step + 1) / (warmup + 1)
    passed = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return max(0.0, 1.0 - passed)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * passed))) if schedule == "cosine" else 1.0
