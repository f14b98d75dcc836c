"""Drawings: put into the page, so that they follow the reader's choice of light and dark.

As a file on its own (on GitHub) a drawing follows the system's choice. Both by the same variables.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes


def inline(app: Any, doctree: Any, name: str) -> None:
    """Replace each image of a drawing by the drawing itself, in HTML."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].startswith("drawings/"):
            text = Path(app.srcdir, image["uri"]).read_text(encoding="utf-8")
            image.replace_self(nodes.raw("", for_page(text), format="html"))


def for_page(text: str) -> str:
    """A drawing without what only a file of its own needs: its declaration, and its colours."""
    text = re.sub(r"<\?xml[^>]*\?>\s*", "", text)
    return re.sub(r"<style>.*?</style>\s*", "", text, flags=re.DOTALL)
