"""Whether this is still the process that it was: forks, those that no hook of Python's tells of.

uWSGI and other programs that embed Python fork in C and call no hooks (uWSGI does with
``--py-call-osafterfork``). Asking for the process id is a system call, too dear for every look.
Linux empties a page in the child if it is told to (MADV_WIPEONFORK, Linux 4.14), and reading a byte
of it costs nothing. No database code is imported here.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

# linux/mman.h; Python does not have it.
_WIPE_ON_FORK: Final = 18


if TYPE_CHECKING:
    from typing import Protocol

    class _Mark(Protocol):
        def __getitem__(self, index: int, /) -> int: ...

        def __setitem__(self, index: int, value: int, /) -> None: ...


class _ProcessId:
    """Where the kernel empties no pages: asks for the process id each time."""

    def __init__(self) -> None:
        self._id = os.getpid()

    def __getitem__(self, index: int) -> int:
        return self._id == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._id = os.getpid()


def _mark() -> _Mark:
    if not hasattr(os, "fork"):
        return bytearray(1)
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (AttributeError, OSError, ValueError):
        return _ProcessId()
    return page


#: ``SAME[0]`` is 0 in a child whose fork nobody has announced, until :func:`notice_fork`.
SAME: Final[_Mark] = _mark()
SAME[0] = 1
_noticing = threading.Lock()
_in_child: list[Callable[[], None]] = []


def in_child(do: Callable[[], None]) -> Callable[[], None]:
    """Have this done first of all in every forked child; the last one named comes last."""
    _in_child.append(do)
    return do


def notice_fork() -> None:
    """Do in the child what is to be done first, unless it is done already."""
    with _noticing:
        if not SAME[0]:
            _begin()


def _begin() -> None:
    for do in _in_child:
        do()
    SAME[0] = 1


def _forked() -> None:
    global _noticing
    _noticing = threading.Lock()  # a thread that is not here any more may hold it
    _begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
