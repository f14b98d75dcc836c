"""The ``credentials`` option: user and password asked anew for every physical connection.

For tokens that expire (IAM) and passwords that rotate (Vault). What the callable returns goes to
the driver and nowhere else: it is not kept, not logged, and no message shows it.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .errors import CredentialsUnavailable

_KEYS: Final = frozenset({"user", "password"})


def ask(alias: str, path: str) -> dict[str, str]:
    """Call the callable at the dotted ``path``: what to connect with, right now.

    Raises:
        ImproperlyConfigured: there is nothing at ``path``, it cannot be called, or it returned
            something else than a dict of "user" and "password".
        CredentialsUnavailable: it raised.
    """
    source = find(alias, path)
    failed: Exception | None = None
    try:
        answer = source(alias)
    except Exception as error:
        failed = error
    if failed is not None:
        # Raised here and not above, so that it has no context: its text may hold a token.
        raise CredentialsUnavailable(
            f'No credentials for "{alias}": {path} raised {type(failed).__name__}'
            f"{_where(failed)}. Check that it works by itself; its own message is not shown"
            " because it may hold a secret.",
            passing=isinstance(failed, OSError),
        )
    return _checked(alias, path, answer)


def find(alias: str, path: str) -> Any:
    """The callable at the dotted ``path``.

    Raises:
        ImproperlyConfigured: there is none.
    """
    try:
        source = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'The resilience option "credentials" of the database "{alias}" is {path!r}, which'
            f" cannot be imported ({error})."
        ) from error
    if not callable(source):
        raise ImproperlyConfigured(
            f'The resilience option "credentials" of the database "{alias}" is {path!r}, which is'
            f" a {type(source).__name__}: make it a callable that takes the alias."
        )
    return source


def _checked(alias: str, path: str, answer: object) -> dict[str, str]:
    """What may be said about a wrong answer is its type and its size, not what is in it."""
    if not isinstance(answer, Mapping):
        wrong = f"a {type(answer).__name__}"
    elif not answer or not _KEYS.issuperset(answer):
        wrong = f"a dict of {len(answer)} keys, not all of them known"
    elif any(not isinstance(value, str) for value in answer.values()):
        wrong = "a dict with values that are not strings"
    elif not all(map(_fits, answer.values())):
        wrong = "a dict with a character that no user or password can have (NUL, a lone surrogate)"
    else:
        return dict(answer)
    raise ImproperlyConfigured(
        f'{path}, the resilience option "credentials" of the database "{alias}", returned {wrong}:'
        ' make it return {"user": ..., "password": ...}, or one of the two.'
    )


def _fits(value: str) -> bool:
    """Whether libpq gets it as it is.

    It reads no further than a NUL, and so tries another server than the one meant; what cannot be
    encoded fails in the driver, with all parameters in the error.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames[1:] else ""
