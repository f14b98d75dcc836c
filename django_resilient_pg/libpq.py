"""One round trip with a deadline on a connection of psycopg2, which offers none.

By libpq's own functions, for which psycopg2 tells the address of its connection (``pgconn_ptr``).
They are looked up through psycopg2's extension module, so they are those of the libpq that it is
linked with. Imported by the first ping; no driver is imported.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, Final

_TUPLES_OK: Final = 2
_POINTER: Final = ctypes.c_void_p


@cache
def functions() -> Any:
    """The functions that are needed.

    They hold the GIL (``PyDLL``): none of them waits, and no other thread comes in between.

    Raises:
        AttributeError: this build of psycopg2 does not show them.
        OSError: no file descriptor is left.
    """
    library = ctypes.PyDLL(sys.modules["psycopg2._psycopg"].__file__)
    for name in ("PQflush", "PQconsumeInput", "PQisBusy", "PQresultStatus"):
        getattr(library, name).argtypes = [_POINTER]
    library.PQsendQuery.argtypes = [_POINTER, ctypes.c_char_p]
    library.PQgetResult.argtypes, library.PQgetResult.restype = [_POINTER], _POINTER
    library.PQclear.argtypes, library.PQclear.restype = [_POINTER], None
    return library


def ping(libpq: Any, connection: Any, wait: Callable[[bool], bool]) -> bool:
    """Whether the server answers; nobody else may be using the connection.

    Args:
        libpq: its :func:`functions`.
        connection: psycopg2's.
        wait: waits until its socket is readable, or (True) writable; False: for too long.
    """
    own = connection.pgconn_ptr
    if own is None or not libpq.PQsendQuery(own, b"SELECT 1"):
        return False
    while (left := libpq.PQflush(own)) != 0:
        if left < 0 or not wait(True) or not libpq.PQconsumeInput(own):
            return False
    answered = False
    while True:
        while libpq.PQisBusy(own):
            if not wait(False) or not libpq.PQconsumeInput(own):
                return False
        result = libpq.PQgetResult(own)
        if not result:
            return answered
        answered = libpq.PQresultStatus(result) == _TUPLES_OK
        libpq.PQclear(result)
