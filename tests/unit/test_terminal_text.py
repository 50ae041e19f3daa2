from batchrun.words.terminal_text import last_lines, one_line, printable


def test_a_text_cannot_control_a_terminal() -> None:
    """Escape sequences are removed, line ends become blanks, unprintable characters are replaced."""
    assert one_line("\x1b[31mred\x1b[0m\r\nnext\ttab", 80) == "red next tab"
    assert one_line("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link", 80) == "alink"
    assert one_line("a\x00b\x9b31m\u202ec\ud800", 80) == "a�b�31m�c�"
    assert one_line("\x1b", 80) == "�"


def test_long_text_is_cut() -> None:
    """Its end shows that it was cut."""
    assert one_line("abc def", 7) == "abc def"
    assert one_line("abc defg", 7) == "abc de…"
    assert one_line(" " * 1000 + "late", 10) == "…"
    assert len(one_line("x" * 10_000_000, 100)) == 100


def test_the_last_non_blank_lines_are_returned() -> None:
    """In order."""
    assert last_lines("a\n\nb\r\n\x1b[1mc\x1b[0m\n\n", 2, 80) == ["b", "c"]
    assert last_lines("", 2, 80) == []


def test_lines_and_tabs_are_kept_where_text_has_several_lines() -> None:
    """All else that moves the cursor, recolours the screen, turns the reading direction or has no encoding goes."""
    assert printable("a\n\tb\r\nc") == "a\n\tb\nc"
    assert (
        printable("\x1b[2J\x1b]0;owned\x07red\rover\x08\x9b31m\u202ebidi\ud800\u00a0end")
        == "red over�\ufffd31m�bidi� end"
    )
    assert printable("ünïcödé \U0001f600") == "ünïcödé \U0001f600"
    assert printable("") == ""
