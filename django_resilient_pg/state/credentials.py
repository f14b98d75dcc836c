"""The ``credentials`` option: user and password asked anew for every physical connection.

For tokens that expire (IAM) and passwords that rotate (Vault). What the callable returns goes to
the driver and nowhere else: it is not kept, not logged, and no message shows it. Nor do the frames
of a traceback, whose local variables error trackers record.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..errors import CredentialsUnavailable

_KEYS: Final = frozenset({"user", "password"})


def ask(alias: str, path: str) -> dict[str, str]:
    """Call the callable at the dotted ``path``: what to connect with, right now.

    Raises:
        ImproperlyConfigured: there is nothing at ``path``, it cannot be called, or it returned
            something other than a dict of "user" and "password".
        CredentialsUnavailable: it raised.
    """
    source = find(alias, path)
    try:
        answer = source(alias)
    except Exception as error:
        refusal: Exception = _unavailable(alias, path, error)
    else:
        wrong = _wrong(answer)
        if not wrong:
            return dict(answer)
        del answer
        refusal = ImproperlyConfigured(
            f'{path}, the resilience option "credentials" of the database "{alias}", returned'
            f' {wrong}: make it return {{"user": ..., "password": ...}}, or one of the two.'
        )
    # Raised here and not above, so that it has no context: its text may hold a token.
    raise refusal


def _unavailable(alias: str, path: str, error: Exception) -> CredentialsUnavailable:
    return CredentialsUnavailable(
        f'No credentials for "{alias}": {path} raised {type(error).__name__}{_where(error)}. Check'
        " that it works by itself; its own message is not shown because it may hold a secret.",
        passing=isinstance(error, OSError),
    )


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


def _wrong(answer: object) -> str:
    """What is wrong with an answer, or "": its type and its size, not what is in it."""
    if not isinstance(answer, Mapping):
        return f"a {type(answer).__name__}"
    if not answer or not _KEYS.issuperset(answer):
        return f"a dict of {len(answer)} keys, not all of them known"
    if any(not isinstance(value, str) for value in answer.values()):
        return "a dict with values that are not strings"
    if not all(map(_fits, answer.values())):
        return "a dict with a character that no user or password can have (NUL, a lone surrogate)"
    return ""


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
