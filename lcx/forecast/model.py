"""The model of a forecast: its shape, by a config.json, a name or by hand; and the plan of a step with it.

A plan is what a training step does with a shape: its tuning, precision, rows of tokens, and how many GPUs share it.
Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lcx import gguf
from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.modeling.rope import WINDOW


@dataclass(frozen=True)
class Linear:
    """One weight matrix of a layer, by the last part of its name."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Elements of the matrix, its bias left out."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A decoder of equal layers: attention with `kv_heads` key heads, and an MLP that is gated or not.

    `qk_norm` is "" (none), "head" (over each head's width) or "all" (over all heads); `norms` counts those of
    a layer over the hidden width; `window` are the positions that the model was made for, 0 if unknown.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    head_dim: int = 0
    tied: bool = False
    window: int = 0
    gated: bool = True
    fused_qkv: bool = False
    fused_mlp: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = ""
    norms: int = 2
    norm_bias: bool = False
    kind: str = "llama"

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.hidden // self.heads)
        for key in ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocab", "head_dim"):
            if getattr(self, key) < 1:
                raise UsageError(f"a model's shape needs {key} of at least 1, not {getattr(self, key)}")
        if self.heads % self.kv_heads:
            raise UsageError(
                f"{self.heads} heads cannot share {self.kv_heads} key heads evenly",
                why="Every key head serves the same number of query heads.",
            )

    @property
    def query(self) -> int:
        """Width of the queries of a token, over all heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of the keys of a token, over all key heads; the values' too."""
        return self.kv_heads * self.head_dim

    def linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer, in the order of its forward pass."""
        h, q, k, m = self.hidden, self.query, self.key, self.intermediate
        if self.fused_qkv:
            attention = [Linear("qkv_proj", h, q + 2 * k, self.qkv_bias)]
        else:
            attention = [
                Linear(name, h, width, self.qkv_bias)
                for name, width in (("q_proj", q), ("k_proj", k), ("v_proj", k))
            ]
        attention.append(Linear("o_proj", q, h, self.o_bias))
        if not self.gated:
            mlp = [Linear("c_fc", h, m, self.mlp_bias), Linear("c_proj", m, h, self.mlp_bias)]
        elif self.fused_mlp:
            mlp = [Linear("gate_up_proj", h, 2 * m), Linear("down_proj", m, h)]
        else:
            mlp = [Linear(name, h, m, self.mlp_bias) for name in ("gate_proj", "up_proj")]
            mlp.append(Linear("down_proj", m, h, self.mlp_bias))
        return (*attention, *mlp)

    @property
    def layer_linear(self) -> int:
        """Parameters of a layer's matrices, biases left out."""
        return sum(one.weights for one in self.linears())

    @property
    def layer_rest(self) -> int:
        """A layer's other parameters: norms and biases."""
        biases = sum(one.outputs for one in self.linears() if one.bias)
        heads = {"": 0, "head": 2 * self.head_dim, "all": self.query + self.key}[self.qk_norm]
        return biases + heads + self.norms * self.hidden * (1 + self.norm_bias)

    @property
    def embedding(self) -> int:
        """Parameters of the table of input embeddings."""
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Parameters that the output head has of its own: none where it is tied to the embeddings."""
        return 0 if self.tied else self.embedding

    @property
    def parameters(self) -> int:
        """All parameters."""
        final = self.hidden * (1 + self.norm_bias)
        return self.layers * (self.layer_linear + self.layer_rest) + self.embedding + self.head + final


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"o_bias": "attention_bias", "qkv_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"o_bias": "attention_bias", "qkv_bias": "attention_bias", "qk_norm": "head"},
    "glm": {"qkv_bias": "attention_bias", "fused_mlp": True},
    "glm4": {"qkv_bias": "attention_bias", "fused_mlp": True, "norms": 4},
    "phi3": {"fused_qkv": True, "fused_mlp": True},
    "olmo2": {"o_bias": "attention_bias", "qkv_bias": "attention_bias", "qk_norm": "all"},
    "granite": {"o_bias": "attention_bias", "qkv_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    "smollm3": {"o_bias": "attention_bias", "qkv_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    "starcoder2": {
        "gated": False,
        "norm_bias": True,
        **dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias"), "use_bias"),
    },
}
"""Features of a model type's layers. A string names the config's key that says so."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "glm": {"attention_bias": True, "head_dim": 128},
    "glm4": {"attention_bias": True, "head_dim": 128},
    "qwen3": {"head_dim": 128},
    "smollm3": {"tie_word_embeddings": True},
    "starcoder2": {"tie_word_embeddings": True, "use_bias": True},
}
"""Values that a config.json may leave out, where they are not false."""
KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
}


def shape_of_config(config: Mapping[str, Any], source: str = "the model") -> Shape:
    """The shape in a config.json. Raises UsageError for model types and configs that are not known."""
    kind = str(config.get("model_type") or "")
    if kind not in FAMILIES:
        raise UsageError(
            f"no forecast for model type '{kind or 'unknown'}' of {source}",
            why=f"Known: {', '.join(sorted(FAMILIES))}.",
            hint="Give its shape by hand: --shape layers=32,hidden=4096,heads=32,kv_heads=8,"
            "intermediate=14336,vocab=128256",
        )
    missing = [key for key in KEYS.values() if not config.get(key)]
    if missing:
        raise UsageError(f"the config of {source} has no {', '.join(missing)}")
    known = {**DEFAULTS.get(kind, {}), **{key: value for key, value in config.items() if value is not None}}
    traits: dict[str, Any] = {
        name: bool(known.get(value, False)) if isinstance(value, str) and name != "qk_norm" else value
        for name, value in FAMILIES[kind].items()
    }
    sizes: dict[str, Any] = {name: int(config[key]) for name, key in KEYS.items()}
    return Shape(
        **sizes,
        kv_heads=int(known.get("num_key_value_heads", config["num_attention_heads"])),
        head_dim=int(known.get("head_dim", 0)),
        tied=bool(known.get("tie_word_embeddings", False)),
        window=int(known.get("max_position_embeddings", 0)),
        kind=kind,
        **traits,
    )


def _llama(layers: int, hidden: int, heads: int, kv: int, mlp: int, vocab: int, **more: Any) -> Shape:
    return Shape(layers, hidden, heads, kv, mlp, vocab, **more)


NAMED: dict[str, Shape] = {
    "llama2-7b": _llama(32, 4096, 32, 32, 11008, 32000, window=4096),
    "llama2-13b": _llama(40, 5120, 40, 40, 13824, 32000, window=4096),
    "llama2-70b": _llama(80, 8192, 64, 8, 28672, 32000, window=4096),
    "llama3-8b": _llama(32, 4096, 32, 8, 14336, 128256, window=8192),
    "llama3-70b": _llama(80, 8192, 64, 8, 28672, 128256, window=8192),
    "llama3.1-8b": _llama(32, 4096, 32, 8, 14336, 128256, window=131072),
    "llama3.1-70b": _llama(80, 8192, 64, 8, 28672, 128256, window=131072),
    "llama3.2-1b": _llama(16, 2048, 32, 8, 8192, 128256, window=131072, tied=True),
    "llama3.2-3b": _llama(28, 3072, 24, 8, 8192, 128256, window=131072, tied=True, head_dim=128),
    "smollm2": _llama(30, 576, 9, 3, 1536, 49152, window=8192, tied=True),
    "mistral-7b": _llama(32, 4096, 32, 8, 14336, 32000, window=32768, kind="mistral"),
    "mistral-nemo-12b": _llama(40, 5120, 32, 8, 14336, 131072, window=131072, head_dim=128, kind="mistral"),
    "qwen2.5-0.5b": _llama(
        24, 896, 14, 2, 4864, 151936, window=32768, tied=True, qkv_bias=True, kind="qwen2"
    ),
    "qwen2.5-7b": _llama(28, 3584, 28, 4, 18944, 152064, window=32768, qkv_bias=True, kind="qwen2"),
    "qwen2.5-14b": _llama(48, 5120, 40, 8, 13824, 152064, window=32768, qkv_bias=True, kind="qwen2"),
    "qwen2.5-32b": _llama(64, 5120, 40, 8, 27648, 152064, window=32768, qkv_bias=True, kind="qwen2"),
    "qwen3-0.6b": _llama(
        28, 1024, 16, 8, 3072, 151936, window=40960, tied=True, head_dim=128, qk_norm="head", kind="qwen3"
    ),
    "qwen3-4b": _llama(
        36, 2560, 32, 8, 9728, 151936, window=40960, tied=True, head_dim=128, qk_norm="head", kind="qwen3"
    ),
    "qwen3-8b": _llama(
        36, 4096, 32, 8, 12288, 151936, window=40960, head_dim=128, qk_norm="head", kind="qwen3"
    ),
    "qwen3-14b": _llama(
        40, 5120, 40, 8, 17408, 151936, window=40960, head_dim=128, qk_norm="head", kind="qwen3"
    ),
    "qwen3-32b": _llama(
        64, 5120, 64, 8, 25600, 151936, window=40960, head_dim=128, qk_norm="head", kind="qwen3"
    ),
}
"""Shapes by name, from the models' published configs."""
REQUIRED = ("layers", "hidden", "heads", "intermediate", "vocab")


def parse_shape(text: str) -> Shape:
    """`llama3-8b`, `layers=32,hidden=4096,...`, or both: a name whose values are then changed.

    Raises UsageError for unknown names, keys and values that are no numbers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    name = parts.pop(0) if parts and "=" not in parts[0] else ""
    if name and name.lower() not in NAMED:
        raise UsageError(
            f"unknown shape '{name}'. {suggestion(name.lower(), NAMED)}".rstrip(),
            why=f"Named shapes: {', '.join(NAMED)}.",
            hint="Or by hand: --shape layers=32,hidden=4096,heads=32,kv_heads=8,intermediate=14336,vocab=128256",
        )
    given: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        given[key.strip()] = _value(key.strip(), value.strip())
    if name:
        base = NAMED[name.lower()]
        if {"hidden", "heads"} & given.keys() and "head_dim" not in given:
            given["head_dim"] = 0
        return replace(base, **given)
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise UsageError(
            f"the shape '{text}' lacks {', '.join(missing)}",
            hint="--shape layers=32,hidden=4096,heads=32,kv_heads=8,intermediate=14336,vocab=128256",
        )
    return Shape(**{"kv_heads": given["heads"], **given})


def _value(key: str, text: str) -> Any:
    kinds = {field.name: str(field.type) for field in fields(Shape) if field.name != "kind"}
    if key not in kinds:
        raise UsageError(
            f"unknown part '{key}' of a shape. {suggestion(key, kinds)}".rstrip(),
            why=f"Parts: {', '.join(kinds)}.",
        )
    if kinds[key] == "str":
        if text not in ("", "head", "all"):
            raise UsageError(f"{key}={text}: it is head, all or empty")
        return text
    if kinds[key] == "bool":
        if text.lower() not in ("1", "0", "yes", "no", "true", "false"):
            raise UsageError(f"{key}={text}: it is yes or no")
        return text.lower() in ("1", "yes", "true")
    if not text.isdigit():
        raise UsageError(f"{key}={text}: it is a whole number")
    return int(text)


CONFIG, ADAPTER = "config.json", "adapter_config.json"
SHAPE_HINT = (
    "--shape llama3-8b, or --shape layers=32,hidden=4096,heads=32,kv_heads=8,intermediate=14336,vocab=128256"
)


def shape_of_model(spec: str, *, network: bool = True) -> Shape:
    """A model's shape by its config, or by the name of one that `lcx models get` fetches. Raises as `read_config`."""
    if gguf.named(spec) is not None and spec in NAMED:
        return NAMED[spec]
    return shape_of_config(read_config(spec, network=network), f"'{spec}'")


def known_window(model: str, rope: Mapping[str, Any]) -> int | None:
    """The window of a model whose config is on this machine, or what `rope` makes it; None where neither says."""
    if WINDOW in rope:
        return int(rope[WINDOW])
    if model.startswith("step:") or rope.keys() - {"rope_theta"}:
        return None
    try:
        config = read_config(model, network=False)
    except LcxError:
        return None
    text = config.get("text_config")
    found = config.get(WINDOW) or (text.get(WINDOW) if isinstance(text, Mapping) else None)
    return int(found) if isinstance(found, int | float) and found > 0 else None


def read_config(spec: str, *, network: bool = True) -> dict[str, Any]:
    """The config of a model; a LoRA folder's is its base's. No weights are looked at.

    Raises MissingError, within seconds, for what is neither on this machine nor (with `network`) on the hub,
    and LcxError for a file that is no config.
    """
    return _read(spec, network, ())


def _read(spec: str, network: bool, seen: tuple[str, ...]) -> dict[str, Any]:
    if spec in seen:
        raise UsageError(f"LoRA folders name each other as their base: {' -> '.join((*seen, spec))}")
    if gguf.is_gguf(spec):
        return gguf.config_of(spec)
    path = _find(spec, network)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as bad:
        raise LcxError(f"{path} cannot be read as JSON", why=str(bad)) from None
    if not isinstance(found, dict):
        raise LcxError(f"{path} is no model's config", why="It does not hold a mapping.")
    if path.name == ADAPTER:
        base = found.get("base_model_name_or_path")
        if not base:
            raise LcxError(f"{path} does not name the adapter's base")
        return _read(str(base), network, (*seen, spec))
    return found


def _find(spec: str, network: bool) -> Path:
    from lcx.hub import cached, tiny_spec

    if (named := tiny_spec(spec)) is not None:
        return _tiny(*named)
    if (fetched := gguf.named(spec)) is not None:
        if place := gguf.fetched(fetched):
            return place / CONFIG
        raise gguf.missing(fetched)
    folder = Path(spec).expanduser()
    if folder.is_file() and folder.name == CONFIG:
        return folder
    if folder.is_dir():
        for name in (CONFIG, ADAPTER):
            if (folder / name).is_file():
                return folder / name
        raise MissingError(f"no {CONFIG} in the folder '{spec}'", hint=SHAPE_HINT)
    is_id = spec.count("/") == 1 and not spec.startswith((".", "/", "~"))
    if found := cached(spec, (CONFIG, ADAPTER)) if spec.count("/") <= 1 else None:
        return Path(found)
    if not is_id:
        raise MissingError(
            f"no model at '{spec}'",
            why="There is no such folder, and no hub id has that form.",
            hint=SHAPE_HINT,
        )
    if not network:
        raise MissingError(
            f"the config of '{spec}' is not on this machine", hint=f"lcx forecast --model {spec}"
        )
    return _fetch(spec)


def _tiny(name: str, seed: int) -> Path:
    """The config of a tiny model that was trained on this machine; seeds do not change its shape."""
    from lcx.paths import cache_folder

    for pattern in (f"{name}-{seed}-*/{CONFIG}", f"{name}-*/{CONFIG}"):
        if found := sorted((cache_folder() / "tiny").glob(pattern)):
            return found[-1]
    raise MissingError(
        f"the model '{name}' was not trained on this machine yet",
        why="Its vocabulary follows from this Python's standard library.",
        hint="lcx demo trains it, in a minute; or give a shape: --shape layers=2,hidden=64,heads=2,"
        "intermediate=128,vocab=1000",
    )


def _fetch(spec: str) -> Path:
    from lcx.hub import out_of_reach

    if reason := out_of_reach():
        raise MissingError(
            f"the config of '{spec}' is neither in a folder nor in the local hub cache, and {reason}",
            hint=f"{SHAPE_HINT}; or, with a network: hf download {spec} {CONFIG}",
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        for name in (CONFIG, ADAPTER):
            try:
                return Path(hf_hub_download(spec, name))
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, HFValidationError, OSError) as bad:
        first = (str(bad).strip().splitlines() or [type(bad).__name__])[0][:300]
        raise MissingError(
            f"the hub does not give the config of '{spec}'",
            why=first,
            hint=f"Check the id, or log in for a gated model: hf auth login; or {SHAPE_HINT}",
        ) from bad
    raise MissingError(f"'{spec}' on the hub has no {CONFIG}", hint=SHAPE_HINT)


def is_adapter(spec: str) -> bool:
    """True if a spec is a folder that holds a LoRA adapter."""
    return (Path(spec).expanduser() / ADAPTER).is_file()


STRATEGIES = ("single", "ddp", "fsdp", "zero2", "zero3")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Row:
    """One forward pass of a process: tokens in its row, those whose answers are learnt, query-key pairs.

    `copies` are tokens whose keys and values flash-attn is handed a second time: a prefix for each branch.
    """

    tokens: int
    targets: int
    pairs: int
    copies: int = 0


def packed_row(context: int, question: int, answer: int, branches: int, micro: int = 1) -> Row:
    """`micro` contexts of so many tokens with their branches, packed: [P[:-1] | (P[-1], branch) | ...].

    A branch attends to all of the prefix and causally to itself, so that its pairs are those of a row alone.
    """
    prefix, branch = context - 1, question + answer + 1
    pairs = causal(prefix) + branches * (branch * prefix + causal(branch))
    return Row(
        micro * (prefix + branches * branch),
        micro * branches * answer,
        micro * pairs,
        micro * branches * (prefix + branch),
    )


def separate_rows(context: int, question: int, answer: int, rows: int) -> Row:
    """Rows of a context, a question and an answer each, in one batch."""
    tokens = context + question + answer
    return Row(rows * tokens, rows * answer, rows * causal(tokens))


def causal(tokens: int) -> int:
    """Pairs of a row that attends causally to itself: n (n + 1) / 2."""
    return tokens * (tokens + 1) // 2


@dataclass(frozen=True)
class Plan:
    """A training step as memory and FLOPs see it.

    `passes` are forward passes an optimizer step on each GPU; `reference` is "" for losses without one, else
    adapter, model or cached. `engine` is shared-prefix or trl, `kernels` sdpa or flash, `device` cuda or cpu.
    """

    shape: Shape
    row: Row
    tuning: str = "full"
    precision: str = "bf16"
    lora_r: int = 32
    lora_targets: tuple[str, ...] = ("all-linear",)
    checkpointing: bool = True
    optimizer: str = "adamw_torch"
    passes: int = 1
    gpus: int = 1
    strategy: str = "single"
    offload: bool = False
    reference: str = ""
    engine: str = "shared-prefix"
    kernels: str = "sdpa"
    device: str = "cuda"

    @property
    def compute(self) -> int:
        """Bytes of a number in the computation."""
        return BYTES[self.precision]

    @property
    def residual(self) -> int:
        """Bytes of a number in the residual stream, which follows the embeddings' precision.

        4-bit models keep embeddings, norms and head in fp32, full tuning all weights, unless fsdp or DeepSpeed
        cast them.
        """
        cast = self.tuning == "full" and self.strategy in ("fsdp", "zero2", "zero3")
        return self.compute if self.tuning == "lora" or cast else 4

    @property
    def checked(self) -> Plan:
        """The plan itself. Raises UsageError where its parts do not go together."""
        if self.strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy '{self.strategy}'", why=f"Known: {', '.join(STRATEGIES)}.")
        if self.offload and self.strategy not in ("fsdp", "zero2", "zero3"):
            raise UsageError(
                f"offload needs a strategy that shares states, and {self.strategy} does not",
                hint="--strategy zero3 --offload cpu",
            )
        if self.tuning != "full" and not self.adapted and not self.outer:
            names = ", ".join(one.name for one in self.shape.linears())
            raise UsageError(
                f"lora_targets {', '.join(self.lora_targets)} name no layer of this shape",
                why=f"It has {names}, embed_tokens, lm_head.",
            )
        return self

    @cached_property
    def adapted(self) -> tuple[Linear, ...]:
        """The matrices of a layer that carry adapters."""
        if self.tuning == "full":
            return ()
        found = self.shape.linears()
        if self.lora_targets == ("all-linear",):
            return found
        return tuple(one for one in found if one.name in self.lora_targets)

    @cached_property
    def outer(self) -> tuple[Linear, ...]:
        """Embeddings and head where they carry adapters."""
        if self.tuning == "full":
            return ()
        both = (
            Linear("embed_tokens", self.shape.vocab, self.shape.hidden),
            Linear("lm_head", self.shape.hidden, self.shape.vocab),
        )
        return tuple(one for one in both if one.name in self.lora_targets)

    @cached_property
    def layer_adapter(self) -> int:
        """Adapter parameters of one layer: r (in + out) for each matrix."""
        return sum(self.lora_r * (one.inputs + one.outputs) for one in self.adapted)

    @cached_property
    def adapter(self) -> int:
        """All adapter parameters."""
        outer = sum(self.lora_r * (one.inputs + one.outputs) for one in self.outer)
        return self.shape.layers * self.layer_adapter + outer

    @property
    def trained(self) -> int:
        """Parameters that the optimizer changes."""
        return self.shape.parameters if self.tuning == "full" else self.adapter
