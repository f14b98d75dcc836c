"""What makes the pages of ``docs/`` a site.

The pages are plain reStructuredText, so that they can be read on GitHub and checked by docutils
alone. This extension adds what only Sphinx knows: the tree of contents is made from the index,
links from page to page become links of the site, drawings follow the reader's choice of light and
dark, and the tables that are made from the package's data are put where a page asks for them.
"""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Connect the parts to Sphinx."""
    from . import (
        drawings,
        links,
        offline,
    )  # only here: what is made is also tested where Sphinx is not

    app.connect("source-read", _read)
    app.connect("doctree-read", links.leave_downloads)
    app.connect("doctree-resolved", links.resolve)
    app.connect("doctree-resolved", drawings.inline)
    app.connect("build-finished", offline.check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: Any, name: str, source: list[str]) -> None:
    from . import links, made

    text = made.expand(source[0])
    if name == app.config.root_doc:
        text += links.contents(text)
    source[0] = links.without_contents(text)
