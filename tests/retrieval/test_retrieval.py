"""Retrievers: BM25 against its formula, embeddings against a stub server."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lcx.data.words import words
from lcx.errors import LcxError, MissingError, UsageError
from lcx.retrieval import best_places, open_retriever


def naive(passages: list[str], query: str, count: int, k1: float = 1.5, b: float = 0.75) -> list[int]:
    """Lucene's BM25 as it is written in books."""
    cut = [words(text) for text in passages]
    mean = sum(map(len, cut)) / len(cut)
    scores = []
    for passage in cut:
        score = 0.0
        for word in words(query):
            have = sum(word in other for other in cut)
            idf = math.log(1 + (len(cut) - have + 0.5) / (have + 0.5))
            often = passage.count(word)
            score += idf * often / (often + k1 * (1 - b + b * len(passage) / mean))
        scores.append(round(score, 4))
    ranked = sorted(range(len(passages)), key=lambda place: (-scores[place], place))
    return sorted(ranked[:count])


def test_bm25_is_the_formula() -> None:
    rng = random.Random(1)
    vocabulary = [f"w{n}" for n in range(60)]
    for _ in range(20):
        passages = [" ".join(rng.choices(vocabulary, k=rng.randint(3, 20))) for _ in range(30)]
        query = " ".join(rng.choices([*vocabulary, "unknown"], k=6))
        [found] = open_retriever("bm25").index(passages).top([query], 5)
        assert found == naive(passages, query, 5)


def test_chinese_is_found_by_pairs_of_characters() -> None:
    passages = ["深圳是一座年轻的城市。", "北京有两千万人口，是中国的首都。", "上海是一座港口城市。"]
    index = open_retriever("bm25").index(passages)
    assert index.top(["北京的人口有多少", "港口在哪里"], 1) == [[1], [2]]


def test_order_ties_and_little_to_find() -> None:
    index = open_retriever("bm25").index(["a b", "c", "a b", "c d a"])
    assert index.top(["a b", "zzz", "", "的"], 2) == [[0, 2], [0, 1], [0, 1], [0, 1]]
    assert index.top(["a"], 10) == [[0, 1, 2, 3]]
    assert open_retriever("bm25").index(["", " "]).top(["a"], 5) == [[0, 1]]
    assert best_places([1.0, 3.0, 3.0, 2.0], 2) == [1, 2]


def test_options_are_checked() -> None:
    assert open_retriever("bm25", {"k1": 0.9, "b": 0.4}).describe()["k1"] == 0.9
    with pytest.raises(UsageError, match="no option 'k2'"):
        open_retriever("bm25", {"k2": 1})
    with pytest.raises(UsageError, match="unknown retriever"):
        open_retriever("bm26")
    with pytest.raises(UsageError, match="no model"):
        open_retriever("openai:")


def test_a_missing_library_is_named() -> None:
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(MissingError, match="sentence-transformers"):
            open_retriever("sentence-transformers:nowhere")


class Embeddings(ThreadingHTTPServer):
    """A server whose vectors count a text's letters a, b and c."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Embeddings

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/embeddings"
        self.server.asked.append(body["input"])
        rows = [[float(text.count(letter)) for letter in "abc"] for text in body["input"]]
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        answer = {
            "object": "list",
            "data": data[::-1],
            "model": "m",
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
        raw = json.dumps(
            answer if self.server.status == 200 else {"error": {"message": "sk-secret-key"}}
        ).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Embeddings]:
    with Embeddings() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()


PASSAGES = ["aaa", "b", "ab", "c c c c", "", "aab"]


def test_embeddings_by_cosine_in_batches_asked_once(server: Embeddings, tmp_path: Path) -> None:
    options = {"base_url": server.url, "batch": 2, "cache": str(tmp_path / "vectors.sqlite")}
    retriever = open_retriever("openai:m", options)
    index = retriever.index(PASSAGES)
    assert index.top(["aaaa", "cc", "aaaa"], 2) == [[0, 5], [0, 3], [0, 5]]
    assert retriever.describe() == {"retriever": "openai", "model": "m", "cosine": True}
    retriever.close()
    assert max(map(len, server.asked)) == 2
    texts = [text for batch in server.asked for text in batch]
    assert len(texts) == len(set(texts)) == 8
    # Another process finds the vectors on disk.
    again = open_retriever("openai:m", options)
    assert again.index(PASSAGES).top(["cc"], 1) == [[3]]
    again.close()
    assert len([text for batch in server.asked for text in batch]) == 8


def test_a_server_that_refuses_is_named_without_secrets(server: Embeddings) -> None:
    server.status = 401
    retriever = open_retriever("openai:m", {"base_url": server.url})
    with pytest.raises(LcxError) as caught:
        retriever.index(["a"])
    said = f"{caught.value.what} {caught.value.why} {caught.value.hint}"
    assert "401" in said
    assert "secret" not in said
    retriever.close()
