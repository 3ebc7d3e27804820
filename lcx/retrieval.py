"""Finding the passages of one document that a query is about: `open_retriever("bm25")`, and what plugins register.

A retriever indexes one document's passages at a time. What it finds is handed out in the order of the document. BM25 is
built in; dense retrievers ask an embeddings endpoint or sentence-transformers.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lcx.data.words import words
from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.openai import find_endpoint, redact
from lcx.storage import make_folder, read_json, sha256_json

if TYPE_CHECKING:
    from lcx.plugins import Plugins


class Index(Protocol):
    """The passages of one document."""

    def top(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """For each query the places of its `count` best passages (all of them where there are fewer), ascending."""
        ...


class Retriever(Protocol):
    """Makes indexes. `waits` says that it spends its time waiting or in native code: call it in a thread."""

    waits: bool

    def index(self, passages: Sequence[str]) -> Index:
        """Take in the passages of one document, which queries then search."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the results record: the retriever, and anything that changes what it finds."""
        ...

    def close(self) -> None:
        """Free what was opened."""
        ...


RetrieverFactory = Callable[[str, Mapping[str, Any]], Retriever]
"""Opens a retriever from what follows the colon of a spec (`openai:MODEL` -> `MODEL`) and its options."""


def open_retriever(
    spec: str, options: Mapping[str, Any] | None = None, plugins: Plugins | None = None
) -> Retriever:
    """Open the retriever named before the colon of `spec`.

    Raises UsageError for an unknown one or bad options, MissingError where its model or library is not there.
    """
    from lcx.plugins import check_made, loaded

    name, _, model = spec.partition(":")
    known = plugins or loaded()
    factory: RetrieverFactory = known.retrievers.load(name)
    found = factory(model, dict(options or {}))
    check_made(f"the retriever '{name}'", found, ("index", "describe", "close"), known.whose(factory))
    return found


def best_places(scores: Sequence[float], count: int) -> list[int]:
    """Places of the `count` highest scores, ascending; of equal scores the earlier place counts as higher."""
    ranked = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return sorted(ranked[:count])


def only_options(what: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises UsageError where there is an option that a retriever does not know."""
    from lcx.errors import UsageError, suggestion

    for name in options:
        if name not in known:
            raise UsageError(
                f"{what} has no option '{name}'. {suggestion(name, known)}".rstrip(),
                why=f"it has: {', '.join(known) or 'none'}",
            )


K1, B = 1.5, 0.75
METHOD = "lucene"


class BM25:
    """Lucene's BM25 by bm25s; how rare a word is counts within the one document."""

    waits = False

    def __init__(self, k1: float = K1, b: float = B) -> None:
        self.k1, self.b = k1, b

    def index(self, passages: Sequence[str]) -> WordIndex:
        return WordIndex([words(text) for text in passages], self.k1, self.b)

    def describe(self) -> dict[str, Any]:
        return {"retriever": "bm25", "method": METHOD, "k1": self.k1, "b": self.b}

    def close(self) -> None:
        return None


class WordIndex:
    """The words of each passage, weighed."""

    def __init__(self, passages: Sequence[Sequence[str]], k1: float, b: float) -> None:
        self._count = len(passages)
        self._known = {word for passage in passages for word in passage}
        self._index: Any = None
        if self._known:
            import bm25s

            self._index = bm25s.BM25(k1=k1, b=b, method=METHOD)
            self._index.index([list(passage) for passage in passages], show_progress=False)

    def top(self, queries: Sequence[str], count: int) -> list[list[int]]:
        return [best_places(self._scores(query), count) for query in queries]

    def _scores(self, query: str) -> list[float]:
        asked = [word for word in words(query) if word in self._known]
        if not asked:
            return [0.0] * self._count
        found: list[float] = self._index.get_scores(asked).tolist()
        return found


def open_bm25(model: str, options: Mapping[str, Any]) -> BM25:
    """Factory for the spec `bm25`; options: k1, b."""
    only_options("bm25", options, ("k1", "b"))
    return BM25(**{name: float(value) for name, value in options.items()})


BATCH = 64
"""Texts that a request for embeddings holds."""
TRIES, TIMEOUT = 5, 120.0
ENDPOINT_OPTIONS = ("base_url", "api_key_env", "api_key_file", "batch", "dimensions", "cache")
LOCAL_OPTIONS = ("device", "batch", "query_prompt", "cache")

Embed = Callable[[Sequence[str], bool], np.ndarray]
"""Makes a row of floats of each text; the flag says that the texts are queries."""


class Dense:
    """A retriever over any function that makes vectors."""

    waits = True

    def __init__(self, embed: Embed, described: Mapping[str, Any], close: Callable[[], None] | None = None):
        self._embed, self._described, self._close = embed, dict(described), close

    def index(self, passages: Sequence[str]) -> VectorIndex:
        return VectorIndex(self._embed, passages)

    def describe(self) -> dict[str, Any]:
        return dict(self._described)

    def close(self) -> None:
        if self._close is not None:
            self._close()


class VectorIndex:
    """The vectors of one document's passages, of unit length."""

    def __init__(self, embed: Embed, passages: Sequence[str]) -> None:
        self._embed = embed
        self._vectors = unit(embed(passages, False)) if passages else np.zeros((0, 1))

    def top(self, queries: Sequence[str], count: int) -> list[list[int]]:
        if not queries or not len(self._vectors):
            return [[] for _ in queries]
        scores = unit(self._embed(queries, True)) @ self._vectors.T
        return [best_places(row.tolist(), count) for row in scores]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, in double precision; a row of zeros stays."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


class Vectors:
    """Vectors by what they were made of, in a small database; of one process, from any of its threads."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL)"
        )
        told = {row[1]: bool(row[3]) for row in self._db.execute("PRAGMA table_info(vectors)")}
        self._unchecked = not told.get("crc")  # an earlier version began it
        if "crc" not in told:
            self._db.execute("ALTER TABLE vectors ADD COLUMN crc INTEGER")

    def get(self, key: str) -> np.ndarray | None:
        """The vector of a key; None where there is none, or one that is not what was kept: it is asked for again."""
        with self._lock:
            found = self._db.execute("SELECT vector, crc FROM vectors WHERE key = ?", (key,)).fetchone()
        if found is None or not isinstance(found[0], bytes):
            return None
        good = self._unchecked if found[1] is None else found[1] == zlib.crc32(key.encode() + found[0])
        return np.frombuffer(found[0], dtype=np.float32) if good else None

    def put(self, rows: Mapping[str, np.ndarray]) -> None:
        with self._lock, self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                [
                    (
                        key,
                        data := np.asarray(row, dtype=np.float32).tobytes(),
                        zlib.crc32(key.encode() + data),
                    )
                    for key, row in rows.items()
                ],
            )

    def close(self) -> None:
        self._db.close()


class Endpoint:
    """Embeddings by a server that speaks OpenAI's protocol."""

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        self.model = model
        self.batch = int(options.get("batch") or BATCH)
        self._place = find_endpoint(options)
        self._extra: dict[str, Any] = (
            {"dimensions": int(options["dimensions"])} if options.get("dimensions") else {}
        )
        self._vectors = Vectors(Path(options["cache"])) if options.get("cache") else None
        try:
            import openai
        except ImportError:
            raise MissingError(
                "embeddings of a server need the openai package", hint="pip install openai"
            ) from None
        self._client = openai.OpenAI(
            api_key=self._place.key,
            base_url=self._place.url,
            max_retries=TRIES - 1,
            timeout=TIMEOUT,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False
            ),  # texts and key go to this server alone
        )

    def embed(self, texts: Sequence[str], queries: bool) -> np.ndarray:
        """A row for each text; texts that the cache has, or that are equal, are asked once."""
        keys = [sha256_json([self.model, self._extra, text]) for text in texts]
        known: dict[str, np.ndarray] = {}
        for key in dict.fromkeys(keys):
            if self._vectors is not None and (row := self._vectors.get(key)) is not None:
                known[key] = row
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        asked = list(missing.items())
        for start in range(0, len(asked), self.batch):
            part = asked[start : start + self.batch]
            # Some servers refuse an empty text.
            rows = self._ask([text if text.strip() else " ." for _, text in part])
            found = {key: row for (key, _), row in zip(part, rows, strict=True)}
            if self._vectors is not None:
                self._vectors.put(found)
            known |= found
        return np.stack([known[key] for key in keys])

    def _ask(self, texts: Sequence[str]) -> list[np.ndarray]:
        import openai

        try:
            reply = self._client.embeddings.create(
                model=self.model, input=list(texts), encoding_format="float", **self._extra
            )
        except openai.OpenAIError as bad:
            raise LcxError(
                f"no embeddings from {redact(self._place.url)}",
                why=f"{type(bad).__name__}{_status(bad)}",
                hint="Check score.retriever_options (base_url, api_key_env) and the model's name; the same command "
                "goes on.",
            ) from None  # the SDK's message may quote the request
        rows = sorted(reply.data, key=lambda one: one.index)
        if [one.index for one in rows] != list(range(len(texts))):
            raise LcxError(
                f"{redact(self._place.url)} sent {len(rows)} embeddings for {len(texts)} texts",
                hint="The same command goes on; another server may be needed.",
            )
        return [np.asarray(one.embedding, dtype=np.float32) for one in rows]

    def close(self) -> None:
        self._client.close()
        if self._vectors is not None:
            self._vectors.close()


def open_endpoint(model: str, options: Mapping[str, Any]) -> Dense:
    """Factory for `openai:MODEL`; options: base_url, api_key_env, api_key_file, batch, dimensions, cache."""
    only_options("openai:", options, ENDPOINT_OPTIONS)
    if not model:
        raise UsageError(
            "openai: says no model", hint="--set score.retriever=openai:NAME_OF_AN_EMBEDDING_MODEL"
        )
    server = Endpoint(model, options)
    described = {"retriever": "openai", "model": model, "cosine": True}
    return Dense(server.embed, described, server.close)


def open_sentence_transformers(model: str, options: Mapping[str, Any]) -> Dense:
    """Factory for `sentence-transformers:PATH`; options: device, batch, query_prompt (put before queries)."""
    only_options("sentence-transformers:", options, LOCAL_OPTIONS)
    if not model:
        raise UsageError(
            "sentence-transformers: says no model", hint="--set score.retriever=sentence-transformers:PATH"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingError(
            "this retriever needs sentence-transformers", hint="pip install 'lcx[dense]'"
        ) from None
    from lcx.hub import locate

    device, place = options.get("device"), locate(model)
    _refuse_modules(place)
    loaded = SentenceTransformer(place, device=None if device in (None, "auto") else str(device))
    prompt = str(options.get("query_prompt") or "")

    def embed(texts: Sequence[str], queries: bool) -> np.ndarray:
        shown = [prompt + text for text in texts] if queries else list(texts)
        size = int(options.get("batch") or BATCH)
        return np.asarray(loaded.encode(shown, batch_size=size, show_progress_bar=False))

    return Dense(embed, {"retriever": "sentence-transformers", "model": model, "query_prompt": prompt})


def _refuse_modules(place: str) -> None:
    """Raise UsageError where a model's folder names parts that are not sentence-transformers' own: they are code."""
    file = Path(place) / "modules.json"
    parts = read_json(file) if file.is_file() else []
    for part in parts if isinstance(parts, list) else []:
        kind = str(part.get("type") if isinstance(part, Mapping) else part)
        if not kind.startswith("sentence_transformers."):
            raise UsageError(
                f"the model '{place}' brings its own code, and lcx does not run a model's own code",
                why=f"{file} names {kind!r}.",
                hint="Take a model of sentence-transformers' own parts.",
            )


def _status(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    return f", status {status}" if status else ""
