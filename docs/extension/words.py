"""reStructuredText for what is made."""

from __future__ import annotations

import re
from collections.abc import Iterable


def escaped(text: str) -> str:
    """Plain text, whatever characters it has."""
    return re.sub(r"([\\*`_|])", r"\\\1", text)


def heading(text: str, line: str) -> str:
    """A heading with the line below it."""
    return f"\n{text}\n{line * len(text)}\n\n"


def block(language: str, lines: Iterable[str]) -> str:
    """A block of code."""
    return f".. code-block:: {language}\n\n" + "".join(f"    {line}\n" for line in lines) + "\n"
