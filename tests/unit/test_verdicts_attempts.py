"""Errors in other languages, and several attempts in one message."""

from __future__ import annotations

import errno
import os

import pytest

from django_resilient_pg.policy.verdicts import Phase, Reason
from tests.unit.failures import failed

# -- other languages -------------------------------------------------------------------------------


LOCALISED_REFUSALS = [
    "Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen",
    "authentification par mot de passe échouée pour l'utilisateur « app »",
    "la autentificación password falló para el usuario «app»",
    'ユーザー"app"のパスワード認証に失敗しました',
    "пользователь 'app' не прошёл проверку подлинности (по паролю)",
    "das Datenbanksystem startet",
]


@pytest.mark.parametrize("text", LOCALISED_REFUSALS)
def test_a_connect_error_in_another_language_is_not_tried_again(text: str) -> None:
    address = f'connection to server at "127.0.0.1", port 5432 failed: FATAL:  {text}'
    for full in (address, f"connection failed: {address}"):
        verdict = failed(full, Phase.CONNECT)
        assert verdict.lost
        assert not verdict.transient
        assert not verdict.read_retry_safe


@pytest.mark.parametrize("text", ["ZEITÜBERSCHREITUNG", "délai dépassé"])
def test_a_connect_timeout_in_another_language_is_tried_again(text: str) -> None:
    verdict = failed(text, Phase.CONNECT, exception="ConnectionTimeout")
    assert verdict.transient
    assert verdict.reason is Reason.NETWORK


@pytest.mark.parametrize(
    ("sqlstate", "reason", "again"),
    [
        ("57P01", Reason.ADMINISTRATOR, True),
        ("57P02", Reason.CRASH, True),
        ("57P05", Reason.SERVER_IDLE_TIMEOUT, True),
        ("25P03", Reason.TRANSACTION_TIMEOUT, False),
        ("57P04", Reason.ADMINISTRATOR, False),
    ],
)
@pytest.mark.parametrize("text", ["breche Verbindung ab", "接続を終了しています", ""])
def test_last_words_in_another_language_are_told_by_their_code(
    text: str, sqlstate: str, reason: Reason, again: bool
) -> None:
    verdict = failed(text, sqlstate=sqlstate, severity="FATAL")
    assert (verdict.lost, verdict.reason, verdict.read_retry_safe) == (True, reason, again)


# What an own probe of the protocol learns and the drivers keep to themselves.
PROBED = {
    "starting or stopping": ["57P03"],
    "too many connections": ["53300", "53200", "53400"],
    "connecting failed": ["08001", "08006", "58000", "58030"],
    "wrong password": ["28P01"],
    "login refused": ["28000", "42501"],
    "short of resources": ["53000", "53100"],
    "no such database or role": ["3D000", "55000"],
    "wrong option": ["42704", "22023", "0A000", "55P02"],
    "unknown connection error": ["99999", "08P01", "XX000"],
}


@pytest.mark.parametrize(
    ("rule", "sqlstate"), [(rule, code) for rule, codes in PROBED.items() for code in codes]
)
def test_a_code_from_a_probe_decides_a_localised_connect_error(rule: str, sqlstate: str) -> None:
    verdict = failed("システム", Phase.CONNECT, sqlstate=sqlstate, severity="FATAL")
    assert verdict.rule == rule
    passes = rule in {
        "starting or stopping", "too many connections", "connecting failed", "short of resources",
    }  # fmt: skip
    assert verdict.transient is verdict.write_retry_safe is passes


# -- several attempts in one message ---------------------------------------------------------------


REFUSED = "Connection refused\n\tIs the server running on that host?"
STARTING = "FATAL:  the database system is starting up"
WRONG = 'FATAL:  password authentication failed for user "app"'
MISSING = 'FATAL:  database "app" does not exist'
NEW = f"FATAL:  {LOCALISED_REFUSALS[0]}"


def both_wordings(*attempts: tuple[str, str, str]) -> list[str]:
    """Attempts (host, address, what was said) as libpq joins them, and as psycopg 3 lists them."""
    joined = "\n".join(
        f'connection to server at "{host}" ({address}), port 5432 failed: {said}'
        for host, address, said in attempts
    )
    own = [
        f'connection failed: connection to server at "{address}", port 5432 failed: {said}'
        for _, address, said in attempts
    ]
    listed = "\n".join(
        f"- host: '{host}', port: '5432', hostaddr: '{address}': {said}"
        for (host, address, _), said in zip(attempts, own, strict=True)
    )
    head = "Multiple connection attempts failed. All failures were:"
    return [joined, f"{own[-1]}\n{head}\n{listed}"]


def classes(*attempts: tuple[str, str, str]) -> set[str]:
    """The class of a refusal in either wording."""
    found: set[str] = set()
    for text in both_wordings(*attempts):
        verdict = failed(text, Phase.CONNECT)
        assert not (verdict.transient and verdict.final)
        found.add("transient" if verdict.transient else "final" if verdict.final else "unknown")
    return found


def test_one_attempt_is_of_the_class_of_what_it_says() -> None:
    says = (REFUSED, "transient"), ("", "transient"), (MISSING, "final"), (NEW, "unknown")
    for said, expected in says:
        assert classes(("a", "::1", said)) == {expected}


@pytest.mark.parametrize("other", [REFUSED, STARTING, MISSING, NEW])
def test_a_wrong_password_is_final_whatever_else_is_said(other: str) -> None:
    for attempts in (
        [("a", "::1", other), ("a", "x", WRONG)],
        [("a", "x", WRONG), ("b", "y", other)],
    ):
        assert classes(*attempts) == {"final"}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (REFUSED, STARTING, "transient"),
        (REFUSED, MISSING, "unknown"),
        (REFUSED, NEW, "unknown"),
        (MISSING, MISSING, "final"),
        (MISSING, NEW, "unknown"),
        (NEW, NEW, "unknown"),
    ],
)
def test_what_an_address_says_outweighs_that_another_one_of_its_host_is_not_reached(
    first: str, second: str, expected: str
) -> None:
    assert classes(("localhost", "::1", first), ("localhost", "x", second)) == {expected}
    assert classes(("localhost", "::1", second), ("localhost", "x", first)) == {expected}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (REFUSED, STARTING, "transient"),
        (STARTING, MISSING, "transient"),
        (REFUSED, NEW, "transient"),
        (MISSING, MISSING, "final"),
        (MISSING, NEW, "unknown"),
    ],
)
def test_what_a_host_says_is_final_for_that_host_alone(
    first: str, second: str, expected: str
) -> None:
    assert classes(("a", "x", first), ("b", "y", second)) == {expected}
    assert classes(("a", "x", second), ("b", "y", first)) == {expected}


def test_a_timeout_of_one_host_does_not_stand_for_the_other_one() -> None:
    text = (
        "connection timeout expired\nMultiple connection attempts failed. All failures were:\n"
        "- host: 'a', port: '5432', hostaddr: 'x': connection failed: connection to server at"
        f' "x", port 5432 failed: {WRONG}\n'
        "- host: 'b', port: '5432', hostaddr: 'y': connection timeout expired"
    )
    assert failed(text, Phase.CONNECT, exception="ConnectionTimeout").final
    listed = text.replace(WRONG, "Connection refused")
    assert failed(listed, Phase.CONNECT, exception="ConnectionTimeout").transient


def test_the_systems_errors_are_known_in_the_language_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = {errno.ECONNREFUSED: "Verbindungsaufbau abgelehnt", errno.ENOENT: "Nicht gefunden"}
    monkeypatch.setattr(os, "strerror", lambda number: words.get(number, f"Fehler {number}"))
    for said in words.values():
        verdict = failed(f'connection to server at "x", port 1 failed: {said}', Phase.CONNECT)
        assert (verdict.rule, verdict.transient) == ("nothing listens", True)
    file = f'could not open file "x": {words[errno.ENOENT]}'
    assert not failed(file, Phase.CONNECT).transient
