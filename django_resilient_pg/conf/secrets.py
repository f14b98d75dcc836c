"""Values that were pasted into the wrong place, and may hold a password: told, but never shown.

People paste a URL or a whole connection string where one of its parts belongs, and a key where its
file's name does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

NOT_SHOWN: Final = "(not shown)"

_URL: Final = "://"
# A database may well be called "a=b", so the names of libpq's parameters count.
_STRING: Final = re.compile(
    r"\b(?:host|hostaddr|port|user|dbname|password|passwd|pwd|sslpassword|passfile)\s*=",
    re.IGNORECASE,
)
_PEM: Final = "-----BEGIN"
_LOGIN: Final = re.compile(r":[^\s@]+@")
_SECRETS: Final = (
    re.compile(r"(?:password|passwd|pwd)\s*=\s*'([^']+)'", re.IGNORECASE),
    re.compile(r"(?:password|passwd|pwd)\s*=\s*([^\s'&]+)", re.IGNORECASE),
    re.compile(r":([^\s/:][^\s]*)@"),
)
_PARTS: Final = "put its parts into NAME, USER, PASSWORD, HOST and PORT"
# What no host name has, in words for people.
_SIGNS: Final = {"@": '"@"', "/": '"/"', "?": '"?"'}
_ENTRY: Final = ("ENGINE", "NAME", "USER", "HOST", "PORT")


def slip(key: str, value: str) -> str:
    """Return what is wrong with a value that is more than it should be, as a sentence, or ""."""
    if _PEM in value:
        return (
            f"{key} holds a key or certificate itself: write it to a file (mode 0600) and name the"
            " file."
        )
    if "\0" in value:
        return f"{key} has a NUL character in it, which no setting may have."
    if _URL in value:
        return f"{key} is a URL: {_PARTS}."
    if _STRING.search(value):
        return f"{key} holds a connection string: {_PARTS}."
    if _LOGIN.search(value):
        return f"{key} holds a password: {_PARTS}."
    return ""


def host_slip(key: str, value: str) -> str:
    """As :func:`slip`, for a host or several: libpq would look up whatever stands there."""
    return slip(key, value) or next(filter(None, (_one(key, one) for one in value.split(","))), "")


def _one(key: str, host: str) -> str:
    if host[:1] in {"/", "@"}:  # the folder of a Unix socket, or an abstract one
        return ""
    if "[" in host:
        return f"{key} has brackets in it: write the address without them."
    sign = next((words for sign, words in _SIGNS.items() if sign in host), "")
    if not sign and re.search(r"\s", host):
        sign = "a space"
    if not sign and host.count(":") == 1:  # an IPv6 address has more
        sign = '":"'
    return f"{key} has {sign} in it, which no host name has: {_PARTS}." if sign else ""


def without_password(user: str) -> str:
    """Return a user's name as it may be shown: ":" is legal in it, and rarely part of it."""
    name, _, rest = user.partition(":")
    return f"{name}:***" if rest else user


def secrets(values: Iterable[object]) -> Iterator[str]:
    """Yield the passwords in values that should hold none, to be hidden wherever they turn up."""
    for value in values:
        if isinstance(value, str) and slip("", value):
            for pattern in _SECRETS:
                yield from pattern.findall(value)
            yield from value.splitlines() if _PEM in value else ()


def scrubbed(text: str, entry: Mapping[str, Any]) -> str:
    """Return a message about an entry of DATABASES without the values that may not be shown."""
    for value in _texts(entry):
        if isinstance(value, str) and slip("", value):
            text = text.replace(value, NOT_SHOWN)
    for secret in (*secrets(_texts(entry)), *secrets([text])):
        text = text.replace(secret, "***")
    return text


def _texts(entry: Mapping[str, Any]) -> Iterator[object]:
    """The values of an entry of DATABASES that are shown, wherever they stand."""
    options = entry.get("OPTIONS")
    yield from (entry.get(key) for key in _ENTRY)
    yield from options.values() if isinstance(options, Mapping) else ()
