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
# Fields of an error (PG_DIAG_SQLSTATE, PG_DIAG_MESSAGE_PRIMARY).
_SQLSTATE, _MESSAGE = ord("C"), ord("M")
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
    library.PQresultErrorField.argtypes = [_POINTER, ctypes.c_int]
    library.PQresultErrorField.restype = ctypes.c_char_p
    library.PQgetResult.argtypes, library.PQgetResult.restype = [_POINTER], _POINTER
    library.PQclear.argtypes, library.PQclear.restype = [_POINTER], None
    return library


def ping(
    libpq: Any,
    connection: Any,
    wait: Callable[[bool], bool],
    hear: Callable[[bytes, bytes], object],
) -> bool:
    """Whether the server answers; nobody else may be using the connection.

    Args:
        libpq: its :func:`functions`.
        connection: psycopg2's.
        wait: waits until its socket is readable, or (True) writable; False: for too long.
        hear: told SQLSTATE and text of an error, which psycopg2 itself would not show.
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
        if text := None if answered else libpq.PQresultErrorField(result, _MESSAGE):
            hear(libpq.PQresultErrorField(result, _SQLSTATE) or b"", text)
        libpq.PQclear(result)
