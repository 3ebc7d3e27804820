"""Words as they are compared, in languages with and without spaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcx.data.words import clean, content_words, fold, scan, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Keepers' boxes, 1,234.5 metres", ["the", "keeper", "box", "1234.5", "metre"]),
        ("os.path.join(snake_case, __init__)", ["os", "path", "join", "snake_case", "__init__"]),
        ("Ada's cities; glass bus", ["ada", "city", "glass", "bus"]),
        ("ＡＢＣ　１２３", ["abc", "123"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("看守人", ["看守", "守人"]),
        ("人", ["人"]),
        ("東京タワーの高さ", ["東京", "タワー", "の", "高", "さ"]),
        ("수도는", ["수도", "도는"]),
        ("GPU型号A100有3.5倍", ["gpu", "型号", "a100", "有", "3.5", "倍"]),
        ("", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_function_words_are_left_out_before_pairs_are_made() -> None:
    assert content_words("这座灯塔的看守人是谁？") == ["座灯", "灯塔", "看守", "守人"]
    assert content_words("What did the keeper of the lighthouse say?") == ["keeper", "lighthouse"]
    assert content_words("東京タワーの高さは何メートルですか") == ["東京", "タワー", "メートル"]


@given(st.text(max_size=200))
def test_scanning_and_listing_agree_and_places_are_right(text: str) -> None:
    text = clean(text)
    found = list(scan(text))
    assert [word.text for word in found] == words(text)
    for word in found:
        assert fold(text[word.start : word.end]) == word.text


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=200))
def test_the_fast_way_for_ascii_gives_the_same(text: str) -> None:
    assert words(text + " é")[:-1] == words(text)
