"""The preference trainer against separate rows of the same model, and against TRL's trainers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lcx.errors import LcxError, UsageError
from lcx.modeling import logprobs
from lcx.modeling.load import add_lora, load_model
from lcx.training import preference
from tests.training.preference_data import (
    Words,
    assert_same_weights,
    bundles,
    context,
    gradient_norm,
    naive_step,
    settings,
    small_model,
    train,
    weights,
)

QLORA = pytest.param("qlora", marks=pytest.mark.slow)
"""Four bits on a CPU take three times as long; tests/training/test_sft.py trains so among the quick tests."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("small"))


def losses(curve: list[dict[str, float]]) -> list[float]:
    return [point["loss"] for point in curve]


CASES: list[tuple[str, int | None, dict[str, Any]]] = [
    ("logo", 1, {"beta": 2.5, "gamma": 0.25}),
    ("logo", 2, {}),
    ("logo", 4, {"beta": 3.0}),
    ("logo", None, {"sft_weight": 0.0}),
    ("simpo", 1, {"gamma": 0.5}),
    ("simpo", 3, {}),
    ("orpo", 2, {}),
    ("dpo", 1, {"beta": 0.15, "sft_weight": 0.1}),
    ("dpo", 1, {"beta": 0.5, "sft_weight": 0.1, "loss_options": {"ce": "sum"}}),
    ("dpo", 2, {"reference": "model"}),
]


AT_ONCE: dict[str, Any] = {"micro_batch": 8}
IN_PARTS: dict[str, Any] = {"micro_batch": 2, "gradient_checkpointing": True}
EARLY, IN_PARTS_EARLY = (1, 4, 6, 7, 9), (1, 9)
"""Cases that the quick tier sees, a loss each and what it begins from, and which of them in parts; the slow tier sees
every case both ways."""


def _cases() -> Iterator[Any]:
    for number, case in enumerate(CASES):
        for way in (AT_ONCE, IN_PARTS):
            early = number in EARLY and (way is IN_PARTS) == (number in IN_PARTS_EARLY)
            yield pytest.param(*case, way, marks=[] if early else [pytest.mark.slow])


@pytest.mark.parametrize(("loss", "rejected", "options", "way"), _cases())
def test_full_training_equals_separate_rows(
    small: Path, tmp_path: Path, loss: str, rejected: int | None, options: dict[str, Any], way: dict[str, Any]
) -> None:
    """Loss, gradient norm and weights after a step of plain SGD, for packed batches and for accumulation."""
    data = bundles(8, rejected)
    config = settings(small, loss=loss, batch=8, max_steps=1, **options, **way)
    _, curve = train(config, data, tmp_path / "ours")
    model: Any = load_model(small, device="cpu").train()
    before: Any = load_model(small, device="cpu") if loss == "dpo" else None
    expected = naive_step(config, model, before, data)
    assert losses(curve) == pytest.approx([expected], rel=1e-5)
    assert curve[0]["grad_norm"] == pytest.approx(gradient_norm(model), rel=1e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= config.learning_rate * parameter.grad
    ours = weights(tmp_path / "ours/model")
    for name, value in model.state_dict().items():
        assert (ours[name] - value).norm() <= 1e-6 * value.norm(), name


@pytest.mark.parametrize("tuning", ["lora", QLORA])
@pytest.mark.parametrize(("loss", "rejected"), [("logo", 2), ("dpo", 1)])
def test_adapters_equal_separate_rows(
    small: Path, tmp_path: Path, tuning: str, loss: str, rejected: int
) -> None:
    """An adapter with weights of its own is trained on; the reference is the base, or what is cached."""
    quantize = "nf4" if tuning == "qlora" else None
    seed_model = load_model(small, device="cpu", quantize=quantize)
    torch.manual_seed(3)
    adapter = add_lora(seed_model, 4, 8)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapter.save_pretrained(tmp_path / "adapter")
    Words(small).tokenizer.save_pretrained(tmp_path / "adapter")
    config = settings(
        tmp_path / "adapter",
        loss=loss,
        tuning=tuning,
        lora_r=4,
        lora_alpha=8,
        batch=6,
        micro_batch=3,
        max_steps=1,
        gradient_checkpointing=True,
    )
    data = bundles(6, rejected)
    result, curve = train(config, data, tmp_path / "ours")
    model: Any = load_model(tmp_path / "adapter", device="cpu", quantize=quantize, trainable=True).train()
    before: Any = None
    if loss == "dpo":
        before = load_model(tmp_path / "adapter", device="cpu", quantize=quantize).train()
        assert result.extra["reference"] == "cached"
    expected = naive_step(config, model, before, data)
    assert losses(curve) == pytest.approx([expected], rel=1e-5)
    assert curve[0]["grad_norm"] == pytest.approx(gradient_norm(model), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", QLORA])
def test_the_reference_of_a_new_adapter_is_the_model_without_it(
    small: Path, tmp_path: Path, tuning: str
) -> None:
    options = {"loss": "dpo", "tuning": tuning, "lora_r": 4, "learning_rate": 0.02, "epochs": 3, "beta": 1.0}
    data = bundles(8, 2)
    curves = {}
    for source in ("adapter", "model", "cached"):
        result, curve = train(settings(small, reference=source, **options), data, tmp_path / source)
        assert result.extra["reference"] == source
        curves[source] = curve
    auto = settings(small, **{**options, "epochs": 1})
    assert train(auto, data, tmp_path / "auto")[0].extra["reference"] == "adapter"
    assert losses(curves["adapter"])[0] == pytest.approx(np.log(2), rel=1e-6)
    assert losses(curves["adapter"])[-1] < 0.65
    for other in ("model", "cached"):
        assert losses(curves[other]) == pytest.approx(losses(curves["adapter"]), rel=1e-5)


@pytest.mark.slow
def test_cached_reference_is_found_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcx.training import preference as reference

    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    config = settings(small, loss="dpo", max_steps=2)
    _, first = train(config, bundles(4), tmp_path / "a")
    assert len(list((tmp_path / "cache/reference").glob("*.npz"))) == 1

    class Computed(Exception):
        pass

    def compute(*_: Any) -> None:
        raise Computed

    monkeypatch.setattr(reference, "_sums", compute)
    _, again = train(config, bundles(4), tmp_path / "b")
    assert losses(again) == losses(first)
    with pytest.raises(Computed):  # other data
        train(config, bundles(4, seed=6), tmp_path / "c")
    with pytest.raises(Computed):  # another model
        train(
            settings(small_model(tmp_path / "other", 2), loss="dpo", max_steps=2), bundles(4), tmp_path / "d"
        )


@pytest.mark.parametrize("tuning", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_the_held_out_loss_begins_where_model_and_reference_are_one(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    config = settings(small, loss="dpo", tuning=tuning, max_steps=1, eval_share=0.25, learning_rate=0.5)
    result, curve = train(config, bundles(8), tmp_path / "a")
    assert [point["step"] for point in curve] == [0, 1]
    assert curve[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert curve[1]["eval_loss"] != pytest.approx(math.log(2), abs=1e-5)
    assert [result.counts[name] for name in ("bundles", "bundles not trained", "bundles held out")] == [
        4,
        2,
        2,
    ]
    assert "rewards/margins" in curve[1]


def test_adapter_reference_is_refused_where_it_is_not_the_start(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without its adapter") as bad:
        train(settings(small, loss="dpo", reference="adapter"), bundles(4), tmp_path / "a")
    assert bad.value.hint == "--set train.reference=cached"


@pytest.mark.slow
def test_accumulation_epochs_and_fillers(small: Path, tmp_path: Path) -> None:
    options = {"batch": 4, "epochs": 3}
    one, whole = train(settings(small, micro_batch=4, **options), bundles(8, None), tmp_path / "a")
    many, parts = train(settings(small, micro_batch=1, **options), bundles(8, None), tmp_path / "b")
    assert one.counts["steps"] == many.counts["steps"] == 6
    assert losses(whole) == pytest.approx(losses(parts), rel=1e-5)
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model")


@pytest.mark.slow
def test_tiles_change_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(small, micro_batch=4, tuning="lora", lora_r=4, lora_targets="q_proj,lm_head")
    _, whole = train(config, bundles(8), tmp_path / "a")
    monkeypatch.setattr(logprobs, "TILE_BYTES", 4 * 64 * 7)  # seven tokens a tile
    _, tiled = train(config, bundles(8), tmp_path / "b")
    assert losses(tiled) == pytest.approx(losses(whole), rel=1e-5)
    monkeypatch.setattr(preference.PreferenceTrainer, "__init__", _without_head)
    _, plain = train(config, bundles(8), tmp_path / "c")
    assert losses(plain) == pytest.approx(losses(whole), rel=1e-5)


_init = preference.PreferenceTrainer.__init__


def _without_head(self: Any, *args: Any, **options: Any) -> None:
    _init(self, *args, **options)
    self.release()
    self.answer_head = None


def test_synthetic_positions_equal_rows_at_those_positions(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step at positions drawn for epoch 0; the next epoch draws others."""
    from lcx.data.assembly import share_question

    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    data = bundles(6, 2)
    config = settings(small, batch=6, max_steps=1, target_length=400, slot_tokens=8, sparse_share=0.5)
    _, curve = train(config, data, tmp_path / "a")
    draw = preference.spread(config, "")
    assert draw is not None

    def positions(encoded: Any) -> np.ndarray:
        placed = draw(share_question(encoded), 0)
        assert int(placed.positions.max()) < 400
        assert int(placed.positions.max()) > 300
        return np.asarray(placed.positions[: len(encoded.prefix)])

    model: Any = load_model(small, device="cpu").train()
    encoder = Words(small)
    total = 0.0
    from tests.training.preference_data import naive_loss, row_logprobs

    for bundle in data:
        encoded = share_question(encoder.encode(bundle))
        place = draw(encoded, 0).positions
        rows = row_logprobs(model, encoded, place)
        total += naive_loss("logo", rows, None, beta=10.0, gamma=3.0, sft_weight=0.1).item() / len(data)
    assert losses(curve) == pytest.approx([total], rel=1e-5)
    first = share_question(encoder.encode(data[0]))
    assert draw(first, 0).positions.tolist() == draw(first, 0).positions.tolist()
    assert draw(first, 0).positions.tolist() != draw(first, 1).positions.tolist()
    with pytest.raises(UsageError, match="beyond the model's window of 512"):
        train(settings(small, target_length=1000), data, tmp_path / "b")
    with pytest.raises(UsageError, match="target length of 30 has no room") as bad:
        train(settings(small, target_length=30), data, tmp_path / "c")
    assert "--set train.target_length=" in bad.value.hint


@pytest.mark.pictures
def test_metrics_are_logged(small: Path, tmp_path: Path) -> None:
    _, curve = train(settings(small, batch=4, max_steps=2, learning_rate=0.5), bundles(4, 2), tmp_path)
    point = curve[-1]
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"} <= set(point)
    assert {"logps/chosen", "logps/rejected", "nll_loss"} <= set(point)
    assert point["rewards/margins"] == pytest.approx(
        point["rewards/chosen"] - point["rewards/rejected"], abs=1e-5
    )
    assert point["rewards/margins"] > curve[0]["rewards/margins"]
    assert point["nll_loss"] == pytest.approx(-point["logps/chosen"], abs=1e-5)
    assert (tmp_path / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("tuning", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_trl_gives_the_same_dpo(small: Path, tmp_path: Path, tuning: str) -> None:
    """Several steps of TRL's DPOTrainer, without cross-entropy, which it weighs by token over a batch."""
    options = {"loss": "dpo", "beta": 0.5, "tuning": tuning, "lora_r": 4, "epochs": 2, "learning_rate": 0.1}
    data = bundles(8, 1)
    _, ours = train(settings(small, **options), data, tmp_path / "a")
    theirs, reference = train(settings(small, engine="trl", micro_batch=2, **options), data, tmp_path / "b")
    assert theirs.counts["steps"] == 4
    # TRL draws its own order: compare the first step of the whole data, and the end of the road
    whole = {**options, "batch": 8, "epochs": 3}
    _, ours = train(settings(small, **whole), data, tmp_path / "c")
    _, reference = train(settings(small, engine="trl", micro_batch=4, **whole), data, tmp_path / "d")
    assert losses(ours) == pytest.approx(losses(reference), rel=1e-5)
    assert [p["rewards/margins"] for p in ours] == pytest.approx(
        [p["rewards/margins"] for p in reference], rel=1e-4, abs=1e-6
    )
    if tuning == "full":
        assert_same_weights(tmp_path / "c/model", tmp_path / "d/model")


def test_engine_trl_refuses_what_it_cannot_do(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trains the loss 'dpo', not 'logo'"):
        train(settings(small, engine="trl"), bundles(4), tmp_path / "a")
    result, _ = train(settings(small, engine="trl", loss="dpo", max_steps=1), bundles(4, 2), tmp_path / "b")
    assert "first rejected answer of 4 bundles" in result.notes[0]


def test_bad_pairs_are_counted_and_kept_aside(small: Path, tmp_path: Path) -> None:
    import json
    from dataclasses import replace

    good = bundles(6, 2)
    one, two, three, four = good[:4]
    same = replace(one, branches=(one.branches[0], replace(one.branches[1], answer=one.branches[0].answer)))
    none = replace(two, branches=two.branches[:1])
    headless = replace(three, branches=three.branches[1:])
    double = replace(four, branches=(*four.branches, four.branches[1]))
    result, _ = train(settings(small, max_steps=1), [same, none, headless, double, *good[4:]], tmp_path / "a")
    assert result.counts["bundles"] == 3
    assert result.counts["bundles skipped: every rejected answer is the chosen one"] == 1
    assert result.counts["bundles skipped: no rejected answer"] == 1
    assert result.counts["bundles skipped: no chosen answer"] == 1
    assert result.counts["rejected answers dropped: same text as the chosen one or another"] == 1
    aside = [json.loads(line) for line in (tmp_path / "a/skipped.jsonl").read_text().splitlines()]
    assert [row["bundle"] for row in aside] == [same.id, none.id, headless.id]
    with pytest.raises(LcxError, match="no pair to learn from") as bad:
        train(settings(small), [same, none], tmp_path / "b")
    assert "no rejected answer (1)" in bad.value.why


def test_long_answers_follow_the_policy(small: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    data = bundles(4, 1)
    endless = replace(data[0].branches[1], answer=" ".join(["w1", "w2"] * 300))
    data[0] = replace(data[0], branches=(data[0].branches[0], endless))
    with pytest.raises(
        LcxError, match=r"bundle b0 has a row of \d+ tokens, more than the model's window of 512"
    ):
        train(settings(small), data, tmp_path / "a")
    result, _ = train(settings(small, too_long="drop", max_steps=1), data, tmp_path / "b")
    assert result.counts["dropped_too_long"] == 1
    with pytest.raises(LcxError, match=r"alone do not fit|more than"):
        train(settings(small, too_long="truncate-middle"), data, tmp_path / "c")


def test_nan_stops_training(small: Path, tmp_path: Path) -> None:
    with pytest.raises(LcxError, match="became"):
        train(settings(small, learning_rate=1e30, epochs=9), bundles(8), tmp_path)


def test_the_head_is_itself_again(small: Path, tmp_path: Path) -> None:
    result, _ = train(settings(small, max_steps=1), bundles(4), tmp_path, context())
    model = load_model(tmp_path / "model", device="cpu")
    assert result.files["model"] == "model"
    assert model(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 64)


@pytest.mark.slow
def test_embeddings_are_trained_whole_beside_the_adapters(small: Path, tmp_path: Path) -> None:
    options = {"tuning": "lora", "lora_r": 4, "lora_targets": "q_proj,v_proj", "lora_whole": "embed_tokens"}
    train(settings(small, max_steps=2, **options), bundles(6), tmp_path / "a")
    loaded: Any = load_model(tmp_path / "a/model", device="cpu")
    before = weights(small)["model.embed_tokens.weight"]
    after = loaded.get_input_embeddings().weight
    assert not torch.allclose(after, before, atol=1e-6)
    train(settings(tmp_path / "a/model", max_steps=1, **options), bundles(6), tmp_path / "b")
    with pytest.raises(UsageError, match="another shape") as bad:
        train(settings(tmp_path / "a/model", **{**options, "lora_whole": ""}), bundles(6), tmp_path / "c")
    assert "--set train.lora_whole=embed_tokens" in bad.value.hint


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_interrupted_training_continues_its_curve(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """With positions that every epoch draws anew, metrics included."""
    config = settings(small, epochs=3, micro_batch=2, target_length=400, slot_tokens=8)
    _, whole = train(config, bundles(8), tmp_path / "a")
    plain = preference.PreferenceTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == at:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(preference.PreferenceTrainer, "compute_loss", plain)
        return plain(self, *args, **options)

    monkeypatch.setattr(preference.PreferenceTrainer, "compute_loss", compute_loss)
    with pytest.raises(KeyboardInterrupt):
        train(config, bundles(8), tmp_path / "b")
    _, resumed = train(config, bundles(8), tmp_path / "b")
    assert [point["step"] for point in resumed] == [point["step"] for point in whole]
    for key in ("loss", "rewards/margins", "logps/rejected"):
        assert [p[key] for p in resumed] == pytest.approx([p[key] for p in whole], rel=1e-5, abs=1e-6)
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model", 1e-6)


def test_a_training_killed_after_its_last_step_takes_none_more(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps end within an epoch, where transformers would go on to the next step, and then stop."""
    config = settings(small, epochs=2, max_steps=3, micro_batch=2, save_steps=1)
    _, whole = train(config, bundles(8), tmp_path / "a")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lcx.training.runner.save", killed)  # what comes after the last step
        with pytest.raises(KeyboardInterrupt):
            train(config, bundles(8), tmp_path / "b")
    assert [*tmp_path.glob("b/**/checkpoint-3")]
    _, resumed = train(config, bundles(8), tmp_path / "b")
    assert [point["step"] for point in resumed] == [point["step"] for point in whole]
    assert max(point["step"] for point in whole) == 3
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model", 1e-9)


WORKER = """
import os
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tests.training.preference_data import bundles, context, settings, train
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
assert world == 2
ctx = context(rank=rank, world_size=world)
config = settings(Path({model!r}), **{options!r})
train(config, bundles(7, None), Path({out!r}), ctx)
if world > 1:  # a process that just ended could abort in its exit
    import torch.distributed as dist
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"target_length": 400, "slot_tokens": 8}, marks=pytest.mark.slow),
        pytest.param(
            {"loss": "dpo", "reference": "cached", "tuning": "lora", "lora_r": 4}, marks=pytest.mark.nightly
        ),
    ],
)
def test_two_processes_equal_one(small: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """7 bundles over two processes: the last step is uneven, and a filler of weight 0 makes it even."""
    options = {"batch": 4, "epochs": 2, "learning_rate": 0.02, **options}
    _, curve = train(settings(small, **options), bundles(7, None), tmp_path / "one")
    script = tmp_path / "worker.py"
    (tmp_path / "two").mkdir()
    script.write_text(WORKER.format(model=str(small), out=str(tmp_path / "two"), options=options))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0"]  # --cpu would start one process
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "LCX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **own},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pair = json.loads((tmp_path / "two/curve.json").read_text())
    for key in ("loss", "rewards/margins", "logps/chosen"):
        assert [p[key] for p in pair] == pytest.approx([p[key] for p in curve], rel=1e-5, abs=1e-5)
    # before the first update DPO's rewards are rounding errors around zero, and so is who wins
    beaten = [[point["rewards/accuracies"] for point in points[1:]] for points in (pair, curve)]
    assert beaten[0] == pytest.approx(beaten[1])
    assert_same_weights(tmp_path / "two/model", tmp_path / "one/model")


def test_checkpoints_of_another_model_are_refused(small: Path, tmp_path: Path) -> None:
    other = small_model(tmp_path / "other", num_hidden_layers=3)
    train(settings(small, max_steps=2, save_steps=1), bundles(8), tmp_path / "a")
    with pytest.raises(LcxError, match="belong to another model") as bad:
        train(settings(other, max_steps=4, save_steps=1), bundles(8), tmp_path / "a")
    assert "--force" in bad.value.hint
    _, curve = train(settings(other, max_steps=3), bundles(8), tmp_path / "a", context(force=True))
    assert len(curve) == 3


@pytest.mark.parametrize("tuning", ["lora", QLORA])
def test_adapters_train_at_synthetic_positions(small: Path, tmp_path: Path, tuning: str) -> None:
    """Through the check that chunks see each other, with 4-bit weights and checkpointing, and with YaRN."""
    rope = {"rope_type": "yarn", "factor": 4.0}
    options = {"tuning": tuning, "lora_r": 4, "gradient_checkpointing": True, "rope": rope, "slot_tokens": 8}
    _, curve = train(
        settings(small, target_length=2000, epochs=4, learning_rate=0.02, **options), bundles(8), tmp_path
    )
    assert losses(curve)[-1] < losses(curve)[0]
    loaded = load_model(tmp_path / "model", device="cpu")
    assert loaded.config.max_position_embeddings == 2048
    assert loaded.config.rope_parameters["rope_type"] == "yarn"
