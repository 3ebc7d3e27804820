"""Ways to answer many questions on one context with the same model: lcx, `generate`, copied caches, lm-eval."""

from __future__ import annotations

import copy
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from random_models import random_model, shape_of
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM

from lcx.data.stdlib import stdlib_documents
from lcx.evaluation.local_model import open_local
from lcx.evaluation.samples import ContextPrompts
from lcx.modeling.load import load_model, load_tokenizer
from lcx.records import Branch, Bundle, EncodedBranch, EncodedBundle

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PAD, END = 0, 1
SPECIAL = ("<pad>", "<end>")


@dataclass(frozen=True)
class Sizes:
    """One context of `context` tokens, `queries` of `question` tokens, `new` tokens for each; a model.

    The model is a random Llama of these sizes in fp32, a random one of a named `shape` in bf16, or real `weights` in
    fp32, which read documentation of Python's library.
    """

    context: int = 8192
    queries: int = 200
    question: int = 20
    new: int = 16
    layers: int = 4
    width: int = 256
    heads: int = 8
    kv_heads: int = 2
    intermediate: int = 688
    vocab: int = 8192
    shape: str = ""
    weights: str = ""
    batch: int = 100
    copy_batch: int = 8

    def model(self, device: torch.device) -> Any:
        """The model, the same for the same sizes, with SDPA attention."""
        window = self.context + self.question + self.new
        if self.weights:
            made = load_model(self.weights, dtype="fp32", device=str(device))
            ends = made.generation_config.eos_token_id
            made.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=PAD)
            return made.eval()
        if self.shape:
            made = random_model(shape_of(self.shape), window, device, quantize=False)
        else:
            config = LlamaConfig(
                vocab_size=self.vocab,
                hidden_size=self.width,
                intermediate_size=self.intermediate,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.kv_heads,
                max_position_embeddings=max(65536, window),
                initializer_range=0.08,  # by less, all answers are one token again and again
                bos_token_id=None,
                attn_implementation="sdpa",
            )
            torch.manual_seed(0)
            made = LlamaForCausalLM(config).to(device)
        made.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=PAD)
        return made.eval()


class Material:
    """A model, a context and questions, in tokens and in the words that a word-level tokenizer makes of them."""

    context: list[int]
    questions: list[list[int]]

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.model = sizes.model(device)
        ends = self.model.generation_config.eos_token_id
        self.ends: list[int] = ends if isinstance(ends, list) else [ends]
        if sizes.weights:
            self.tokenizer = load_tokenizer(sizes.weights)
            self.context, self.questions = self.real_texts()
            return
        self.tokenizer = word_tokenizer(self.model.config.vocab_size)
        rng = np.random.default_rng(0)
        low, high = len(SPECIAL), self.model.config.vocab_size
        self.context = rng.integers(low, high, sizes.context).tolist()
        self.questions = rng.integers(low, high, (sizes.queries, sizes.question)).tolist()

    def real_texts(self) -> tuple[list[int], list[list[int]]]:
        """Documentation as the context, and other pieces of it in place of questions."""
        sizes, ids = self.sizes, []
        need = sizes.context + sizes.queries * sizes.question
        for document in stdlib_documents():
            if document.meta["kind"] == "text":
                ids += self.tokenizer(document.text, add_special_tokens=False)["input_ids"]
            if len(ids) >= need:
                break
        starts = range(sizes.context, need, sizes.question)
        return ids[: sizes.context], [ids[start : start + sizes.question] for start in starts]

    def rows(self, numbers: Sequence[int]) -> list[list[int]]:
        """Whole prompts in tokens."""
        return [self.context + self.questions[number] for number in numbers]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def synchronize(self) -> None:
        """Wait for the device: without it a clock would be read too early."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def word_tokenizer(vocab: int) -> Any:
    """A tokenizer of `vocab` words with white space between, so that tokens and text are the same thing."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {name: number for number, name in enumerate(SPECIAL)}
    words |= {f"w{number}": number for number in range(len(SPECIAL), vocab)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    core.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=SPECIAL[PAD], eos_token=SPECIAL[END], model_max_length=1 << 30
    )


Answers = list[list[int]]
Way = Callable[[Material, Sequence[int]], Answers]


def lcx(material: Material, numbers: Sequence[int]) -> Answers:
    """lcx's answerer, as an eval step uses it: the context computed once, all questions on one copy of its KV."""
    branches = tuple(Branch("", "", "query") for _ in numbers)
    encoded = EncodedBundle(
        "b",
        np.array(material.context),
        tuple(EncodedBranch(material.questions[n], len(material.questions[n]), "query") for n in numbers),
    )
    answerer = open_local(material.model, material.tokenizer, stops=material.ends, batch=material.sizes.batch)
    assert answerer.name == "shared", answerer.reason
    [found] = answerer.answer(
        [ContextPrompts(Bundle("b", branches, context=""), encoded)], max_new_tokens=material.sizes.new
    )
    return [list(one.ids) for one in found]


def generate(material: Material, numbers: Sequence[int]) -> Answers:
    """`model.generate` on each whole prompt, one after the other."""
    found = []
    for row in material.rows(numbers):
        ids = torch.tensor([row], device=material.device)
        with torch.inference_mode():
            made = material.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=material.sizes.new,
                do_sample=False,
            )
        found.append(cut(made[0, ids.shape[1] :].tolist(), material.ends))
    return found


def prefilled(material: Material) -> Any:
    """The library's cache of the context."""
    ids = torch.tensor([material.context], device=material.device)
    with torch.inference_mode():
        made = material.model(
            ids,
            past_key_values=DynamicCache(config=material.model.config),
            use_cache=True,
            logits_to_keep=1,
        )
    return made.past_key_values


def from_copies(material: Material, cache: Any, numbers: Sequence[int]) -> Answers:
    """`generate` in one batch from a copy of the context's cache for each question."""
    ids = torch.tensor(material.rows(numbers), device=material.device)
    copies = copy.deepcopy(cache)
    copies.batch_repeat_interleave(len(numbers))
    with torch.inference_mode():
        made = material.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=copies,
            max_new_tokens=material.sizes.new,
            do_sample=False,
        )
    return [cut(row, material.ends) for row in made[:, ids.shape[1] :].tolist()]


def floor(material: Material, answers: Sequence[Sequence[int]]) -> None:
    """Plain forwards of the same tokens: the context, then all questions, then all answers a token at a time.

    Their rows attend to themselves in the model, and besides, as one call a layer on the one copy of the context's
    keys and values, to the context. The two are not joined, no token is chosen and none is checked: it is less work
    than any right answer takes.
    """
    model, device = material.model, material.device
    config = model.config
    order = sorted(range(len(answers)), key=lambda number: -len(answers[number]))
    with torch.inference_mode():
        seen = context_cache(material)
        cache = DynamicCache(config=config)

        def read(ids: torch.Tensor) -> None:
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            for keys, values in seen:
                heads, width = keys.shape[1], keys.shape[3]
                rows = ids.numel() * config.num_attention_heads // heads
                query = keys.new_zeros(1, heads, rows, width)
                torch.nn.functional.scaled_dot_product_attention(query, keys, values)

        read(torch.tensor([material.questions[number] for number in order], device=device))
        alive = len(order)
        for place in range(max(map(len, answers)) - 1):  # an answer's last token is not read any more
            ids = torch.tensor(
                [[answers[n][place]] for n in order if len(answers[n]) > place + 1], device=device
            )
            if len(ids) < alive:
                alive = len(ids)
                cache.batch_select_indices(torch.arange(alive, device=device))
            read(ids)


def context_cache(material: Material) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of the context [1, heads, tokens, width], a pair a layer, by one forward."""
    return [(layer.keys, layer.values) for layer in prefilled(material).layers]


class LmEval:
    """lm-eval's HF backend on the same prompts, as text."""

    def __init__(self, material: Material) -> None:
        from lm_eval.models.huggingface import HFLM

        self.material = material
        self.backend = HFLM(
            pretrained=material.model,
            tokenizer=material.tokenizer,
            batch_size=1,
            max_length=material.sizes.context + material.sizes.question + material.sizes.new,
        )

    def __call__(self, numbers: Sequence[int]) -> list[str]:
        """Texts of the answers."""
        from lm_eval.api.instance import Instance

        limit = {"until": [SPECIAL[END]], "max_gen_toks": self.material.sizes.new, "do_sample": False}
        asked = [
            Instance("generate_until", {}, (self.material.text(row), limit), number)
            for number, row in enumerate(self.material.rows(numbers))
        ]
        return list(self.backend.generate_until(asked, disable_tqdm=True))


def cut(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Tokens before the first end token, and before what fills a batch after it."""
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


def timed(material: Material, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    material.synchronize()
    began = time.perf_counter()
    made = work()
    material.synchronize()
    return time.perf_counter() - began, made


def quiet() -> None:
    """Libraries say nothing while they are measured."""
    for name in ("transformers", "lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
