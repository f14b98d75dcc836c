"""One attempt to log in, bounded in time, and what a refusal says. No secret leaves here."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

from ...conf.secrets import secrets
from ...driver.choose import link_to
from ...driver.exceptions import failure
from ...driver.link import Link
from ...errors import CredentialsUnavailable
from ...facts import socket_view
from ...policy.error_table import TABLE
from ...policy.lookup import Lookup
from ...policy.plain import plain
from ...policy.verdicts import Failure, Phase, judge
from ...state.credentials import ask
from ..settings.libpq_names import system_user
from ..settings.libpq_numbers import whole
from .floods import Dials, TooMuch
from .muted import muted
from .network import limited

_SECRETS: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key")
# What libpq (14 and later) puts before what happened at one address.
_ATTEMPT: Final = re.compile(
    r"connection to server (?:at \"[^\"]*\"(?: \([^)]*\))?, port \d+|on socket \"[^\"]*\")"
    r" failed: ?"
)
# libpq puts a server's severity, which is translated too, before two spaces.
_ANSWER: Final = re.compile(r" failed: [^\s:]+ ?:  ")
# Of a number that libpq cannot read, which it notices only once it has begun with an address.
_OPTION: Final = "for connection option"
_WORDS: Final = frozenset(
    re.findall(r"\w+", " ".join(text for entry in TABLE for text in entry.texts))
) | {"for", "user", "fatal", "at", "port", "host", "connection"}
_VALUE: Final = r"""(?<=["'=:])"""
_URL: Final = re.compile(r"://[^\s/]*@")
_PREFIXES: Final = ("connection failed: ", "connection is bad: ", "invalid dsn: ", "FATAL:  ")
# libpq 13 and later take sslpassword. Without one OpenSSL asks the terminal for the passphrase of
# an encrypted key, in a thread that would be given up with the terminal's echo off. What is no
# passphrase is refused instead; a key that needs none is read without it.
_SSLPASSWORD_SINCE: Final = 130_000
_NO_PASSPHRASE: Final = "none is set"
#: Seconds more than libpq's own limit, so that its words are heard.
GRACE: Final = 0.5


class Connector:
    """Opens raw connections with the parameters of an alias, some of them changed.

    ``parameters`` is asked before each attempt, so that credentials that expire are fresh.
    ``libpq`` is its version, as 180000; 0: not known.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        parameters: Callable[[], Mapping[str, Any]],
        libpq: int = 0,
    ) -> None:
        self._connect, self._parameters, self.libpq = connect, parameters, libpq
        # psycopg2 hears notices only once it is connected.
        self._noisy = not str(getattr(connect, "__module__", "")).startswith("psycopg.")
        #: The user of the last attempt; "" before the first.
        self.user = ""
        #: Of the servers that were tried last.
        self.ports: set[int] = set()
        self._secrets: set[str] = {os.environ.get("PGPASSWORD", "")}
        self._known: set[str] = set()

    @classmethod
    def of(cls, wrapper: BaseDatabaseWrapper) -> Connector:
        """For a Django connection, which itself is not opened; past its pool if it has one."""
        connect = wrapper.Database.connect  # type: ignore[attr-defined]
        return cls(connect, lambda: _parameters(wrapper), libpq_version(wrapper))

    def __call__(self, changes: Mapping[str, object]) -> Any:
        """Connect, with these parameters changed (None: taken out), in autocommit."""
        params = self._parameters()
        self._secrets.update(str(params[name]) for name in _SECRETS if params.get(name))
        self._secrets.update(secrets([*params, *params.values()]))
        self._secrets.add(str(params.get("user") or "").partition(":")[2])
        self._known.update(str(params.get(name)) for name in ("user", "dbname", "host"))
        merged = {**params, **changes}
        given = {name: value for name, value in merged.items() if value is not None}
        takes_one = self.libpq >= _SSLPASSWORD_SINCE
        if takes_one and not Lookup(given, os.environ).text("sslpassword"):
            given["sslpassword"] = _NO_PASSPHRASE
        own = Lookup(given, os.environ)
        numbers = map(whole, own.text("port", "5432").split(","))
        self.user, self.ports = own.text("user", system_user()), {port or 5432 for port in numbers}
        with muted() if self._noisy else contextlib.nullcontext():
            connection = self._connect(**given)
        connection.autocommit = True
        return connection

    def hide(self, text: str) -> str:
        """Return a text without the secrets used so far, nor whatever looks like those of a URL."""
        # A password that is also a name is given away by hiding the name.
        for secret in self._secrets - self._known - {""}:
            # One that is a word of the messages themselves is hidden where a value stands.
            before = _VALUE if secret.lower() in _WORDS else r"(?<!\w)"
            text = re.sub(rf"{before}{re.escape(secret)}(?!\w)", "***", text)
        return _URL.sub("://***@", text)


def libpq_version(wrapper: BaseDatabaseWrapper) -> int:
    """That of the driver, as 180000."""
    module = wrapper.Database  # type: ignore[attr-defined]
    psycopg3 = hasattr(module, "pq")
    return int(module.pq.version() if psycopg3 else module.extensions.libpq_version())


def _parameters(wrapper: BaseDatabaseWrapper) -> dict[str, Any]:
    """What the driver would get, with what the option ``credentials`` gives right now."""
    params: dict[str, Any] = wrapper.get_connection_params()
    resilience = getattr(wrapper, "resilience", None)
    path = resilience.options.credentials if resilience is not None else None
    return {**params, **ask(wrapper.alias, path)} if path else params


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an attempt failed.

    Attributes:
        rule: which entry of the verdict table decided; "timeout", "flood", "unreadable",
            "settings" and "credentials" are of this module.
        transient: whether the cause is transient.
        text: what was said, without addresses and repetitions.
        local: nothing was sent: the settings themselves were refused.
        seconds: it took.
        answered: the server itself said it, in whatever language.
    """

    rule: str
    transient: bool
    text: str
    local: bool
    seconds: float
    answered: bool = False


class Refused(Exception):
    """No session came about."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def attempt(
    connect: Connector, changes: Mapping[str, object], seconds: float, addresses: int = 1
) -> tuple[Link, float]:
    """Log in, giving up after ``seconds`` (and :data:`GRACE`).

    Args:
        connect: how.
        changes: parameters other than the alias'.
        seconds: for all addresses together; libpq itself takes whole seconds per address, and
            not less than 2.
        addresses: how many libpq may have to try.

    Returns:
        The session, and the seconds it took to get it.

    Raises:
        Refused: no session came about; says why.
    """
    began = time.monotonic()
    limit = {"connect_timeout": max(2, math.floor(seconds / max(addresses, 1)))}
    dials = Dials()
    try:
        link = limited(
            lambda: _readable(link_to(connect({**limit, **changes}))),
            seconds + GRACE,
            late=Link.close,
            flooded=lambda: dials.flooded(connect.ports),
        )
        return link, time.monotonic() - began
    except Exception as error:
        refusal = _refusal(error, connect.hide, time.monotonic() - began)
    # Outside, so that the driver's exception, with all it holds, is not chained.
    raise Refused(refusal)


class _Unreadable(Exception):
    """What the driver makes of a login that no PostgreSQL answers so."""


def _readable(link: Link) -> Link:
    """Return a session that tells who and where it is.

    Raises:
        _Unreadable: the driver cannot read what the server has sent.
    """
    try:
        link.login()
        socket_view(link)
    except Exception as error:
        link.close()
        first = str(error).partition("\n")[0].rstrip(".")
        text = f"the server's answer to the login cannot be read ({type(error).__name__}: {first})"
        raise _Unreadable(plain(text)) from None
    return link


def _refusal(error: Exception, hide: Callable[[str], str], seconds: float) -> Refusal:
    for kind, rule, passing in _OURS:
        if isinstance(error, kind):
            passing = getattr(error, "passing", passing)
            local, answered = rule == "settings", rule in {"flood", "unreadable"}
            return Refusal(rule, passing, hide(str(error)), local, seconds, answered)
    if isinstance(error, UnicodeDecodeError) and (text := _undecoded(error)):
        failed = Failure(Phase.CONNECT, None, "OperationalError", None, None, text)
        return _judged(failed, hide, seconds)
    if not any(each.__name__ == "DatabaseError" for each in type(error).__mro__):  # PEP 249
        # Somebody's credentials callable: who knows what its texts hold.
        return Refusal("settings", False, f"{type(error).__name__} was raised", True, seconds)
    return _judged(failure(error, Phase.CONNECT, connection_lost=None), hide, seconds)


# In this order. What is no error of the driver's: the rule, and whether it is transient.
_OURS: Final[tuple[tuple[type[Exception], str, bool], ...]] = (
    (TooMuch, "flood", True),
    (_Unreadable, "unreadable", True),
    (TimeoutError, "timeout", True),
    (ImproperlyConfigured, "settings", False),
    (CredentialsUnavailable, "credentials", False),
)


def _undecoded(error: UnicodeDecodeError) -> str:
    """The words of a server that speaks LATIN1 while it starts: psycopg2 takes them for UTF-8.

    "" if they are not libpq's: nobody knows what those of somebody else hold.
    """
    text = error.object.decode("latin-1")
    return text if _ATTEMPT.search(text) else ""


def _judged(failed: Failure, hide: Callable[[str], str], seconds: float) -> Refusal:
    text, verdict = failed.text, judge(failed)
    unsent = _OPTION in text or not _ATTEMPT.search(text)
    local = unsent and verdict.rule in {"unknown connection error", "wrong option"}
    answered, text = bool(_ANSWER.search(text)), plain(hide(said(text)))
    return Refusal(verdict.rule, verdict.transient, text, local, seconds, answered)


def said(text: str) -> str:
    """Return what a driver's message says happened, each thing once.

    Where addresses were tried in vain and another one answered, what that said.
    """
    parts = _ATTEMPT.split(text)
    reasons = list(dict.fromkeys(filter(None, map(_reason, parts[1:] or parts))))
    answered = [reason for reason in reasons if "onnection refused" not in reason]
    return "; ".join(answered or reasons) or text.strip()


def _reason(part: str) -> str:
    # Behind the first line psycopg lists the attempts once more, libpq gives hints.
    lines = re.split(r"\nMultiple connection attempts|\n- host: ", part)[0].splitlines()
    line = " ".join(each.strip() for each in lines if not each.startswith("\t"))
    for prefix in _PREFIXES:
        line = line.removeprefix(prefix)
    return line.strip()
