"""The stages of the login and after it: authentication, database, role, settings of the server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from ...driver.link import Link
from ...facts import Facts, first_answer
from ...policy.error_table import LOGIN_REFUSED
from ...policy.plain import plain
from ...policy.verdicts import Failure, Phase, judge
from ..settings.libpq_names import PARAMETERS
from .attempts import Refusal, Refused, attempt
from .floods import TooMuch
from .network import answer
from .settings_errors import cause, sqlite_name
from .tls_refusals import Cause, explain, sentence
from .visit import NO_POSTGRESQL, Stopped, Trip

T = TypeVar("T")

# By stage: entries of the verdict table, and what to do about a refusal by them.
_ADVICE: Final = {
    "settings": {"settings": "Correct this entry of DATABASES."},
    "DNS": {"no address": "Check the spelling of HOST, and this machine's resolver."},
    "TCP": {"nothing listens": "Check that the server runs, and HOST and PORT."},
    "authentication": {
        **dict.fromkeys(LOGIN_REFUSED, "Check USER and PASSWORD, and the server's pg_hba.conf."),
        **dict.fromkeys(
            (
                "pooler cannot reach the server",
                "proxy cannot reach the server",
                "query_wait_timeout",
            ),
            "Check whether the pooler can reach the server and has a connection to spare "
            "(SHOW SERVERS, SHOW POOLS), and read its log.",
        ),
        "credentials": "Call the callable of the option credentials by hand.",
        "login timed out": "Read the server's log: what it asks during a login (LDAP, PAM) is "
        "too slow.",
        "short of resources": "Free memory or processes on the server, and read its log.",
        "wrong option": 'Correct it: see OPTIONS["options"] and PGOPTIONS, or what the pooler '
        "takes.",
        "too many connections": "Wait, find who holds the connections (pg_stat_activity), or "
        "raise max_connections.",
        "starting or stopping": "Wait until the server is up, or read its log.",
        "in recovery mode": "Wait: a server process crashed; read its log.",
        "unreadable": NO_POSTGRESQL,
        "flood": NO_POSTGRESQL,
    },
    "database": {
        "no such database or role": "Correct NAME, or create the database.",
        "database disabled": "Enable the database in the pooler.",
    },
    "role": {
        "wrong role": "Find the server that has this role now: there may have been a failover.",
        "standby without hot_standby": "Set hot_standby = on, or connect to the primary.",
    },
}
#: Which stage a refusal belongs to, and what to do about it, by the verdict table's entry.
RULES: Final = {
    name: (stage, advice) for stage, known in _ADVICE.items() for name, advice in known.items()
}
# What is said of one role or one database tells more than the entry does.
_SAID: Final = {
    "permission denied for database": ("database", "Grant CONNECT on the database to this user."),
    "too many connections for role": (
        "authentication",
        "Close what is idle, or raise the role's limit (ALTER ROLE ... CONNECTION LIMIT).",
    ),
    "too many connections for database": (
        "database",
        "Close what is idle, or raise the database's limit (ALTER DATABASE ... CONNECTION LIMIT).",
    ),
    "is not currently accepting connections": (
        "database",
        "Allow connections to it (ALTER DATABASE ... ALLOW_CONNECTIONS true), or correct NAME.",
    ),
}
# insufficient_privilege and query_canceled (statement_timeout): one question is refused, and others
# are not. Applications work with such a session.
_ONE_QUESTION: Final = {"42501", "57014"}
_UNKNOWN: Final = "unknown connection error"
_UNKNOWN_WORDS: Final = (
    "Read the server's log. Only English messages are understood (lc_messages = 'C'): this one is "
    "treated as transient."
)
_POOLERS: Final = (
    "",
    "Read the pooler's log and the server's log, and check the pooler's settings.",
)
_STALE: Final = (
    "Check the user and the password with which the pooler logs in to the server, then reload the "
    "pooler."
)
_SQLITE: Final = (".sqlite3", ".sqlite", ".db")
_OTHERWISE: Final = ("authentication", "Read the server's log.")


def login(trip: Trip) -> str:
    """The driver connects with the alias' own parameters."""
    try:
        found = attempt(trip.connect, {}, trip.timeout, max(1, len(trip.places)))
    except Refused as error:
        raise _stopped(trip, error.refusal) from None
    trip.link, trip.connect_seconds = found
    trip.target = trip.target.logged_in(*trip.link.login())
    # The driver does not tell when TCP and TLS were done: its login is one time.
    trip.seconds["authentication"] = None
    return f'Logged in as "{trip.target.user}", in {trip.connect_seconds * 1000:.0f} ms.'


def _stopped(trip: Trip, refusal: Refusal) -> Stopped:
    text, passing, answered = refusal.text, refusal.transient, refusal.answered
    if (known := explain(text, trip.target, trip.tls)) is not None:
        plain_first = known.cause is Cause.ENCRYPTION_REFUSED
        stage = "settings" if refusal.local else "authentication" if plain_first else "TLS"
        return Stopped(known.sentence, known.advice, passing, stage, answered=answered)
    stage, advice = RULES.get(refusal.rule, _OTHERWISE)
    if refusal.rule in LOGIN_REFUSED and _of_another(trip, text):
        advice = _STALE
    if refusal.rule == "flood":
        text = f"the server does not end its answer: {text}"
    if refusal.rule in {"timeout", "unreachable"} and trip.reached is not None:
        text = f"the login did not complete within {trip.timeout:.3g} s"
        advice = "Read the server's log: it is overloaded, waking up, or slow to authenticate."
    if refusal.rule == _UNKNOWN and answered:
        # As in another language (lc_messages): it may be just starting.
        advice, passing = _UNKNOWN_WORDS, True
    if refusal.local:
        stage, advice = RULES["settings"]
        file = re.search(r'service file "([^"]*)"', text)
        advice = f'Correct the service file "{file[1]}".' if file else advice
        text += _meant(text)
    elif stage == "database" and text.startswith("role "):
        stage, advice = RULES["login refused"]
    else:
        said = (place for words, place in _SAID.items() if words in text)
        stage, advice = next(said, (stage, advice))
        if stage == "database" and trip.target.database.endswith(_SQLITE):
            advice = sqlite_name(trip.target.database)
    return Stopped(sentence(text), advice, passing, stage, answered=answered)


def _of_another(trip: Trip, text: str) -> bool:
    """Whether it is a pooler that logs in, under another name."""
    named = re.search(r'for user "([^"]*)"', text)
    return named is not None and named[1] != trip.connect.user


def _meant(text: str) -> str:
    """The option that libpq has instead of a misspelt one."""
    wrong = re.search(r'invalid connection option "([^"]*)"', text)
    near = difflib.get_close_matches(wrong[1], PARAMETERS, 1) if wrong else []
    return f'. Did you mean "{near[0]}"?' if near else ""


def database(trip: Trip) -> str:
    """The login went into the database: nothing more to ask, but for the role to take there."""
    connected, own, link = f'Connected to "{trip.target.database}"', trip.assume_role, trip.session
    if not own:
        trip.seconds["database"] = None
        return f"{connected}."
    # As Django's SET ROLE, but for this one statement: a pooler may share the session.
    ask = partial(link.ask, "SELECT pg_catalog.set_config('role', %s, true)", [own])
    try:
        _in_time(trip, ask)
    except link.connection.Error as error:
        said = trip.connect.hide(str(error).partition("\n")[0])
        raise Stopped(
            sentence(f'OPTIONS["assume_role"] is refused: {said}'),
            f'Correct it, or create the role and grant it to "{trip.target.user}".',
            link.lost(),
        ) from None
    return f'{connected}, as the role "{own}".'


def role(trip: Trip) -> str:
    """Primary or standby: reported at login since PostgreSQL 14, but not by every pooler."""
    told = trip.session.parameter("in_hot_standby")
    if told not in {"on", "off"}:
        facts = _facts(trip)
        if facts.refusal:
            return f"Whether the server is a primary is unknown: {_why(trip, facts)}"
        standby, read_only = bool(facts.in_recovery), bool(facts.read_only)
    else:
        trip.seconds["role"] = None
        standby = told == "on"
        read_only = trip.session.parameter("default_transaction_read_only") == "on"
    what = "a standby" if standby else "a primary"
    limits = " that refuses to write" if standby or read_only else ""
    if trip.primary and limits:
        raise Stopped(
            f"The server is {what}{limits}.",
            "Connect to the primary: list all servers in HOST and set "
            'OPTIONS["target_session_attrs"] to "read-write".',
            True,
        )
    return f"The server is {what}{limits}."


def server_settings(trip: Trip) -> str:
    """One statement, one round trip; one more where it is refused."""
    facts = _facts(trip)
    if facts.refusal:
        return f"Unknown: {_why(trip, facts)}"
    return f"PostgreSQL {version(facts.server_version)}, reached through: {facts.path.value}."


def _why(trip: Trip, facts: Facts) -> str:
    return f"the server refuses to answer ({trip.connect.hide(facts.refusal)})."


def _facts(trip: Trip) -> Facts:
    """Ask once; a first statement that is not answered is the mark of a pooler without server."""
    if trip.facts is not None:
        return trip.facts
    found = _in_time(trip, lambda: _first_answer(trip.session))
    if found.refusal and trip.session.lost():
        raise _lost(trip, found)
    if found.refusal and found.refusal_code not in _ONE_QUESTION:
        raise Stopped(
            f"The server refuses to answer: {trip.connect.hide(found.refusal)}.",
            "Read the server's log; a pooler's admin console is no database.",
            judge(Failure(Phase.STATEMENT, False, "", None, None, found.refusal)).transient,
        )
    trip.facts = found
    return found


def _first_answer(link: Link) -> Facts:
    link.connection.cursor().close()  # as the application makes them: the link has its own
    return first_answer(link, {})


def _lost(trip: Trip, found: Facts) -> Stopped:
    """A pooler logs in everybody, and says with the first statement why it has no server."""
    said = plain(trip.connect.hide(found.refusal.removeprefix("FATAL:  ")))
    verdict = judge(Failure(Phase.CONNECT, None, "OperationalError", None, None, said))
    _, advice = RULES.get(verdict.rule, _POOLERS)
    return Stopped(
        f"The login succeeded, but the first statement closed the connection: {said.rstrip('.')}.",
        _STALE if verdict.rule in LOGIN_REFUSED else advice,
        verdict.transient or not verdict.final,
        answered=True,
    )


def _in_time(trip: Trip, ask: Callable[[], T]) -> T:
    """What one of the first statements brings, which is where wrong classes in OPTIONS show."""
    link = trip.session
    try:
        return answer(ask, link.fd, trip.timeout)
    except TooMuch as error:
        said = f"The server does not end its answer to the first statement: {error}."
        raise Stopped(said, NO_POSTGRESQL, True) from None
    except TimeoutError:
        raise Stopped(
            f"The login succeeded, but the first statement got no answer within "
            f"{trip.timeout:.3g} s.",
            "Behind a pooler: check whether it can reach the server (SHOW SERVERS, its log).",
            True,
        ) from None
    except link.connection.Error:
        raise
    except Exception as error:
        said = trip.connect.hide(cause(error))
        raise Stopped(
            f"The driver cannot run a statement with these OPTIONS: {said}.",
            "Remove classes and functions, such as cursor_factory and row_factory.",
            False,
            "settings",
        ) from None


def version(number: int) -> str:
    """Return 180006 as "18.6", 0 as "(unknown version)"."""
    return f"{number // 10_000}.{number % 10_000}" if number else "(unknown version)"
