"""Splitting a bash command line into words, quotes and colons included."""

from __future__ import annotations

BLANKS = " \t\n"


def split_line(line: str) -> list[str]:
    """The words of a line up to the cursor, unquoted; the last one is the word being typed, empty after a
    blank.

    Assignments before the command (`LCX_RUNS=x lcx ...`) are left out.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    position = 0
    while position < len(line):
        letter = line[position]
        position += 1
        if quote:
            if letter == quote:
                quote = ""
            elif letter == "\\" and quote == '"' and line[position : position + 1] in ('"', "\\", "$", "`"):
                word = (word or "") + line[position]
                position += 1
            else:
                word = (word or "") + letter
        elif letter in BLANKS:
            if word is not None:
                words.append(word)
            word = None
        elif letter in "\"'":
            quote, word = letter, word or ""
        elif letter == "\\":
            word = (word or "") + line[position : position + 1]
            position += 1
        else:
            word = (word or "") + letter
    words.append(word or "")
    while len(words) > 1 and _is_assignment(words[0]):
        words.pop(0)
    return words


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def break_prefix(word: str, breaks: str) -> str:
    """The part of a word that bash regards as already done: up to the last `:` or `=` at which it splits
    words.
    """
    end = max([word.rfind(sign) for sign in ":=" if sign in breaks], default=-1)
    return word[: end + 1]
