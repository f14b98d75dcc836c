"""What a peer or a server has sent, made fit for a terminal."""

from __future__ import annotations

from typing import Final

#: Longer texts are cut: nobody reads on, and a peer can send what it likes.
LONGEST: Final = 1_000


def plain(text: str) -> str:
    """Return a text without control characters, and cut at :data:`LONGEST`.

    Spaces and line ends become spaces. What else cannot be printed, such as escape sequences and
    characters that change the direction of writing, is written as Python writes it: ``\\x1b``.
    """
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ... ({len(text) - LONGEST:,} characters more)"
    if text.isprintable():
        return text
    return "".join(_plain(each) for each in text)


def _plain(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return character.encode("unicode_escape").decode("ascii")
