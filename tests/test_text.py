from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from frictionstore.text import byte_count, listed, printable


def test_escapes_are_shown_not_sent() -> None:
    assert printable("\x1b[31mred\x1b[0m\nline") == "\\x1b[31mred\\x1b[0m\\nline"
    assert printable("abc\u202etxt.exe") == "abc\\u202etxt.exe"
    assert printable("naïve 猫 🐈") == "naïve 猫 🐈"


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=300))
def test_nothing_printed_can_move_the_cursor(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    shown.encode("utf-8")


def test_long_text_is_cut() -> None:
    assert printable("x" * 500, limit=10) == "x" * 10 + "…"
    assert printable("x" * 10, limit=10) == "x" * 10


def test_listed_says_how_many_more() -> None:
    assert listed(["a", "b"], 5) == "a, b"
    assert listed([str(i) for i in range(1000)], 2) == "0, 1 and 998 more"


def test_byte_count() -> None:
    assert [byte_count(n) for n in (0, 999, 1000, 7_362_000, 2_500_000_000)] == [
        "0 B", "999 B", "1 kB", "7.36 MB", "2.5 GB",
    ]  # fmt: skip
