"""Links from page to page, as GitHub understands them, and the tree of contents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes

#: Pages of the repository's top, and where the site has them.
ELSEWHERE = {
    "../CHANGELOG.rst": "changes",
    "../CONTRIBUTING.rst": "contributing",
    "../README.rst": "index",
    "../SECURITY.md": "support",
}

_CAPTION = re.compile(r"(?m)^(?P<title>[^\n]+)\n-{3,}$")
_PAGE = re.compile(r"(?m)^`(?P<title>[^<`]+?)\s+<(?P<name>[^>#/]+|\.\./[^>]+)\.rst>`__$")
_CONTENTS = re.compile(r"(?m)^\.\. contents::.*\n(?:   :.*\n)*")


def contents(text: str) -> str:
    """The tree of contents: the links that begin a line of the index, under their headings."""
    parts = _CAPTION.split(text.partition("\nPages\n")[2].partition("\nWords\n")[0])
    return "".join(_tree(*pair) for pair in zip(parts[1::2], parts[2::2], strict=True))


def _tree(caption: str, section: str) -> str:
    pages = (f"   {one['title']} <{_document(one['name'])}>\n" for one in _PAGE.finditer(section))
    return f"\n\n.. toctree::\n   :hidden:\n   :caption: {caption}\n\n{''.join(pages)}"


def _document(name: str) -> str:
    return ELSEWHERE.get(f"{name}.rst", name)


def without_contents(text: str) -> str:
    """Leave out a page's own list of sections: the theme shows one beside the page."""
    return _CONTENTS.sub("", text)


def leave_downloads(app: Any, doctree: Any) -> None:
    """A link to a file that is no page downloads it."""
    from sphinx import addnodes

    for node in list(_local(doctree)):
        target = node["refuri"].partition("#")[0]
        if target in ELSEWHERE or not target or target.endswith(".rst"):
            continue
        if not Path(app.srcdir, target).is_file():
            _warn(f"no such file: {target}", node)
            continue
        download = addnodes.download_reference("", "", *node.children, reftarget=target)
        file = str(Path(app.srcdir, target).resolve())
        # Where it lies among the downloads: sphinx returns a path, and wants a text.
        download["filename"] = str(app.env.dlfiles.add_file(app.env.docname, file))
        node.replace_self(download)


def resolve(app: Any, doctree: Any, name: str) -> None:
    """Give each link to a page its address on the site."""
    for node in _local(doctree):
        target, _, anchor = node["refuri"].partition("#")
        document = ELSEWHERE.get(target, target.removesuffix(".rst"))
        if document not in app.env.all_docs:
            _warn(f"no such page: {target}", node)
        elif anchor and anchor not in app.env.get_doctree(document).ids:
            _warn(f"no such section: {target}#{anchor}", node)
        else:
            address = app.builder.get_relative_uri(name, document)
            node["refuri"] = f"{address}#{anchor}" if anchor else address
            node["internal"] = True


def _warn(said: str, node: Any) -> None:
    """Warnings of the build are errors."""
    from sphinx.util import logging

    logging.getLogger(__name__).warning("%s", said, location=node)


def _local(doctree: Any) -> Iterator[Any]:
    for node in doctree.findall(nodes.reference):
        target = node.get("refuri", "")
        if target and not node.get("internal") and not re.match(r"[a-z]+:", target):
            yield node
