"""The `tiny` model: a 2-layer, width-64 Llama with its own word-level tokenizer, small enough to train on the
spot.

The tokenizer knows whole words only. A token is a literal piece of text (a word with the space before it, a
bare word at the start of a line, or a newline), so decoding is plain concatenation: `decode(encode(text)) ==
text` for every text of known words, and pieces that were tokenised apart decode to the joined text.

Its world is the catalogue (`lcx.data.stdlib`): a context is 32 record lines, a query branch is the text
`\\n? {name} = {name} {module} ;`, of which ` {name} {module} ;` is the answer. `tiny16` is the same model in the
same world, but for one more word that starts a line and that its training never showed: `~`, a stale record.

Shapes: B contexts, N records, R tokens a record with its newline (13), Q queries a context, C = N * R - 1
tokens of context, T = 7 tokens a branch, S = C + Q * T tokens a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lcx.data.stdlib import STALE_MARKER, load_entities, record_text, vocabulary

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
SPECIAL = (PAD, UNK, EOS)
NEWLINE = "\n"
LINE_STARTS = ("*", "?")
"""Words that may start a line: `*` a record, `?` a query."""
STALE_STARTS = (*LINE_STARTS, STALE_MARKER)
"""As `LINE_STARTS`, for a tokenizer that knows stale records too."""
MARKS = ("=", ";")
"""Words inside a line: `=` stands between a query and its answer, `;` ends the answer."""

RECORDS = 32
"""Records of a full context."""
SPANS = 8
"""Spans that a probe divides a full context into."""
PER_SPAN = RECORDS // SPANS
BRANCH = 7
"""Tokens of a query branch."""
ANSWER = (3, 4, 5)
"""Positions in a branch whose next token is part of the answer: the name, the module, `;`."""

INIT = 0.05
"""Standard deviation of fresh weights: at 0.02 the retrieval that follows the first click sharpens slowly, at
0.1 the click comes twice as late; at 0.05 its step hardly varies between seeds."""

_PIECE = Regex(r"\n| ?[^ \n]+| ")


def build_tokenizer(words: Iterable[str], starts: Sequence[str] = LINE_STARTS) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for `words`, of which `starts` may start a line; ids do not depend on their order."""
    inner = sorted(set(words) | set(starts) | set(MARKS))
    pieces = [*SPECIAL, NEWLINE, *starts, " ", *(f" {word}" for word in inner)]
    core = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(_PIECE, behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        padding_side="left",  # batched generation needs every prompt to end at the same column
        clean_up_tokenization_spaces=False,
        model_max_length=int(1e9),  # the rotary positions set no limit of their own
    )


def tiny_config(
    vocab_size: int,
    *,
    pad_token_id: int = 0,
    eos_token_id: int = 2,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 2,
    rope_theta: float = 10_000.0,
) -> LlamaConfig:
    """Configuration of the tiny Llama; token ids are those of `build_tokenizer`."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=False,
        initializer_range=INIT,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        eos_token_id=eos_token_id,
    )


def new_model(seed: int, vocab_size: int, rope_theta: float = 10_000.0) -> LlamaForCausalLM:
    """A freshly initialised tiny model; the caller's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config(vocab_size, rope_theta=rope_theta))


@dataclass(frozen=True)
class World:
    """The catalogue as tensors: `records` [E, R] token ids, `modules` [M] ids, `words` [W] all ordinary word
    ids."""

    tokenizer: PreTrainedTokenizerFast
    records: Tensor
    modules: Tensor
    words: Tensor
    newline: int
    query: int
    equals: int
    end: int


def load_world(starts: Sequence[str] = LINE_STARTS) -> World:
    """Read the catalogue of the running interpreter; the same for every seed. `starts` as for `build_tokenizer`."""
    entities = load_entities()
    known = vocabulary(entities)
    tokenizer = build_tokenizer(known, starts)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    return World(
        tokenizer=tokenizer,
        records=torch.tensor([ids(record_text(entity, entity.module) + "\n") for entity in entities]),
        modules=torch.tensor([ids(f" {module}")[0] for module in sorted({e.module for e in entities})]),
        words=torch.tensor([ids(f" {word}")[0] for word in known]),
        newline=ids("\n")[0],
        query=ids("?")[0],
        equals=ids(" =")[0],
        end=ids(" ;")[0],
    )


def draw_contexts(world: World, count: int, records: int, rng: torch.Generator) -> Tensor:
    """Contexts of distinct entities with modules dealt at random: [B, N, R] token ids."""
    chosen = torch.rand(count, len(world.records), generator=rng).argsort(1)[:, :records]
    contexts = world.records[chosen]
    contexts[:, :, 2] = world.modules[torch.randint(len(world.modules), (count, records), generator=rng)]
    return contexts


def with_queries(world: World, contexts: Tensor, gold: Tensor) -> Tensor:
    """Append one query branch per gold record ([B, Q] indices of records) to each context: [B, C + Q * T]
    ids."""
    names, modules = contexts[:, :, 1].gather(1, gold), contexts[:, :, 2].gather(1, gold)
    newline, query, equals, end = (
        torch.full_like(gold, token) for token in (world.newline, world.query, world.equals, world.end)
    )
    branches = torch.stack([newline, query, names, equals, names, modules, end], 2)
    return torch.cat([contexts.flatten(1)[:, :-1], branches.flatten(1)], 1)


@lru_cache(maxsize=32)
def branch_layout(context: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention mask [1, 1, S, S], position ids [1, S] and answer positions [Q * 3] of one row of branches.

    Every branch sees the context and itself, at the positions right after the context, as if it were alone.
    """
    segment = torch.cat([torch.zeros(context), torch.arange(1, queries + 1).repeat_interleave(BRANCH)])
    positions = torch.cat([torch.arange(context), context + torch.arange(BRANCH).repeat(queries)])
    order = torch.arange(len(segment))
    seen = (order[:, None] >= order) & ((segment == 0) | (segment[:, None] == segment))
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    keep = (context + BRANCH * torch.arange(queries)[:, None] + torch.tensor(ANSWER)).flatten()
    return mask[None, None], positions[None], keep


def answer_logits(model: LlamaForCausalLM, rows: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Logits [B, Q, 3, V] and target ids [B, Q, 3] of the answer tokens of rows made by `with_queries`."""
    mask, positions, keep = branch_layout(rows.shape[1] - BRANCH * queries, queries)
    out = model(rows, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep)
    shape = (len(rows), queries, len(ANSWER))
    return out.logits.view(*shape, -1), rows[:, keep + 1].view(shape)


@torch.no_grad()
def probe(
    model: LlamaForCausalLM, world: World, *, per_span: int = 100, seed: int = 1, records: int = RECORDS
) -> list[float]:
    """Share of right answers by span (8 spans of a context of `records`, keys unique, about `per_span` queries each).

    All answer tokens have to be the greedy choice, so this equals greedy generation.
    """
    was_training = model.training
    model.eval()
    rng = torch.Generator().manual_seed(seed)
    per = records // SPANS
    gold = torch.arange(records).expand(16, -1)
    rounds = max(1, round(per_span / (16 * per)))
    right = torch.zeros(SPANS)
    for _ in range(rounds):
        rows = with_queries(world, draw_contexts(world, 16, records, rng), gold)
        logits, targets = answer_logits(model, rows, records)
        hits = (logits.argmax(-1) == targets).all(-1).float()
        right += hits.view(16, SPANS, per).mean((0, 2))
    model.train(was_training)
    return [round(share, 4) for share in (right / rounds).tolist()]
