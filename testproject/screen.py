"""What the demo shows: a line that changes while it works, and a table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TextIO

PLAIN_INTERVAL = 3.0  # seconds between two lines where a line cannot be changed
WIDTH = 1000  # columns, where the table does not go to a terminal: never too few


class Line:
    """One line that is written over on a terminal; elsewhere a new line now and then."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._clock = clock
        self._due = float("-inf")

    def show(self, text: str) -> None:
        """Show how far things are."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
        elif self._clock() >= self._due:
            self._due = self._clock() + PLAIN_INTERVAL
            self._stream.write(text + "\n")
        self._stream.flush()

    def end(self, text: str = "") -> None:
        """Leave ``text`` as the last state of the line."""
        self._stream.write(f"\r\x1b[K{text}" if self._terminal else text)
        self._stream.write("\n" if text else "")
        self._stream.flush()
        self._due = float("-inf")


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a table; ``good`` colours it where there are colours."""

    text: str
    good: bool | None = None


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], stream: TextIO) -> None:
    """Print a table, with rich where it is installed."""
    if find_spec("rich"):
        _print_rich(headers, rows, stream)
    else:
        stream.write(plain_table(headers, [[cell.text for cell in row] for row in rows]))


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as aligned text, one word of a header to a line; the first column to the left."""
    words = [header.split() for header in headers]
    height = max(map(len, words))
    # Headers stand on the line below them, so short ones begin further down.
    heads = [[""] * (height - len(column)) + column for column in words]
    top = [list(line) for line in zip(*heads, strict=True)]
    widths = [max(map(len, column)) for column in zip(*top, *rows, strict=True)]
    lines = [*top, ["-" * width for width in widths], *rows]
    return "".join(_aligned(line, widths) + "\n" for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    others = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join([first, *others]).rstrip()


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[Cell]], stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAVY, show_edge=False, padding=(0, 1, 0, 0))
    for number, header in enumerate(headers):
        heading = header.replace(" ", "\n")
        side: Literal["left", "right"] = "right" if number else "left"
        table.add_column(heading, justify=side, vertical="bottom", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell.text, style=_style(cell)) for cell in row])
    # A file has no width, and rich would take 80 columns for it.
    width = None if stream.isatty() else WIDTH
    Console(file=stream, highlight=False, width=width).print(table)


def _style(cell: Cell) -> str:
    return {None: "none", True: "green", False: "bold red"}[cell.good]
