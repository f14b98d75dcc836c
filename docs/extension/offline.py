"""The site needs nothing but its own files: it can be read, and searched, without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc="(?P<src>[^"]+)"
    |<link\b(?=[^>]*\srel="(?:stylesheet|preload|icon|shortcut\ icon)")[^>]*\shref="(?P<href>[^"]+)"
    """,
    re.VERBOSE,
)


def loaded_from_elsewhere(html: str) -> list[str]:
    """Addresses of other servers that a page loads something from."""
    found = (match["src"] or match["href"] for match in _LOADED.finditer(html))
    return [address for address in found if re.match(r"(?:[a-z]+:)?//", address)]


def check(app: Any, exception: Exception | None) -> None:
    """Fail the build if a page would load anything from elsewhere, or if there is no index."""
    from sphinx.errors import ExtensionError

    if exception is not None or app.builder.name != "html":
        return
    pages = sorted(Path(app.outdir).rglob("*.html"))
    for path in pages:
        if found := loaded_from_elsewhere(path.read_text(encoding="utf-8")):
            raise ExtensionError(f"{path.name} loads {', '.join(found)}")
    if not pages or not Path(app.outdir, "searchindex.js").is_file():
        raise ExtensionError("the site has no pages, or no index to search")
