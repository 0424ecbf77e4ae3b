"""Texts of others shown to people: they command no terminal."""

from __future__ import annotations

_SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_SIGNS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def visible(text: str) -> str:
    """A text with signs in the place of control characters, one for one, so that spans stay where they are.

    >>> visible("a\\x1b[2Jb\\tc")
    'a␛[2Jb\\tc'
    """
    return text.translate(_SIGNS)
