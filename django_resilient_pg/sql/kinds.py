"""What a retry of a statement would mean. Apart from what reads it, whose patterns take long."""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """What a retry of a statement would mean."""

    READ = "read"
    WRITE = "write"
    #: DDL, VACUUM, anything not listed: like a write, and may commit or hold state by itself.
    OTHER = "other"
    #: CALL, DO, COPY, BEGIN, COMMIT, several statements: may have committed inside.
    UNREPEATABLE = "unrepeatable"
