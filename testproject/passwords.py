"""Passwords as PostgreSQL keeps them, quick to check: tests log in a hundred thousand times.

The usual 4,096 iterations are meant to make guessing slow; they take half of a client's time for
logging in. These passwords are random, and their servers live for minutes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


def verifier(password: str, iterations: int = 1) -> str:
    """What ``CREATE ROLE ... PASSWORD`` takes for SCRAM-SHA-256 (RFC 5803)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hashlib.sha256(_keyed(salted, b"Client Key")).digest()
    server = _keyed(salted, b"Server Key")
    salt64, client64, server64 = (
        base64.b64encode(each).decode() for each in (salt, client, server)
    )
    return f"SCRAM-SHA-256${iterations}:{salt64}${client64}:{server64}"


def _keyed(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")
