"""Findings from hand-made surveys: each rule where it has something to say, and just beside."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from django_resilient_pg.diagnosis.findings import PREFIX, RULES, Level, findings
from django_resilient_pg.diagnosis.findings.base import rule, seconds
from django_resilient_pg.diagnosis.path.stages import NAMES, UNWALKED
from django_resilient_pg.diagnosis.report.checklist import checklist
from django_resilient_pg.diagnosis.report.details import details
from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.diagnosis.survey.survey import Survey
from django_resilient_pg.facts import Path
from tests.unit.finding_cases import CASES, Case
from tests.unit.surveys import ASKED, NOW, OLD, REFUSED, STOCK, keepalives, known, numbers

pytestmark = pytest.mark.once_per_driver


def test_a_time_is_told_as_people_read_it() -> None:
    """Neither "0 days" nor "-1 days left"."""
    for left, said in (
        (timedelta(hours=20), "expires in 20 hours"),
        (timedelta(days=29), "expires in 29 days"),
        (timedelta(hours=-30), "expired 30 hours ago"),
        (timedelta(days=-3), "expired 3 days ago"),
    ):
        seen = known(certificate={"not_after": NOW + left})
        assert said in dict(details(seen))["certificate"]
        assert said in checklist(seen)[4].answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_it_speaks_there_and_not_here(case: Case) -> None:
    found = {one.id.removeprefix(PREFIX): one for one in findings(case.bad)}
    assert case.number in found, list(found)
    assert case.part in found[case.number].message + found[case.number].evidence
    assert case.number not in numbers(findings(case.good))


def test_every_rule_has_its_case() -> None:
    assert {PREFIX + case.number for case in CASES} == RULES.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_what_is_said_is_sentences(case: Case) -> None:
    for one in findings(case.bad):
        for text in (one.message, one.hint, one.evidence):
            assert text.endswith("."), (one.id, text)
            assert text[:1].isupper() or text[:1] in '"1234567890' or text.split()[0] in _LOWER
            assert "None" not in text.replace("CONN_MAX_AGE is None", ""), (one.id, text)
            assert ".." not in text.replace("...", ""), (one.id, text)


# Names of settings, which begin some sentences.
_LOWER = {
    "client_connection_check_interval",
    "client_idle_timeout,",
    "connect_timeout",
    "libpq",
    "max_connections",
    "pg_is_in_recovery()",
    "sslmode",
    "target_session_attrs",
    "tcp_user_timeout",
}


@pytest.mark.parametrize("number", ["E005", "W121", "I223"])
def test_a_rule_that_fails_is_told_and_stops_no_other(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``manage.py check``, and with it most commands, must not die of a diagnosis."""

    def broken(survey: Survey) -> None:
        raise TypeError("much-too-secret")

    name = PREFIX + number
    monkeypatch.setitem(RULES, name, replace(RULES[name], judge=broken))
    found = findings(known(target={"connect_timeout": None}))
    assert sorted(numbers(found)) == sorted(["W109", number])
    (one,) = [each for each in found if each.id == name]
    assert one.level is Level.WARNING
    assert one.message == (f'The rule "{RULES[name].title}" failed with a TypeError.')
    assert "much-too-secret" not in str(one)
    assert "test_findings.py" in one.evidence


def test_a_healthy_set_up_has_no_findings() -> None:
    assert findings(known()) == ()
    assert findings(known(connected=False)) == ()


def test_the_stock_engine_well_configured_has_none_either() -> None:
    assert findings(known(project=STOCK)) == ()
    assert findings(known(project=STOCK, connected=False)) == ()


def test_a_unix_socket_needs_no_keepalives_and_no_tls() -> None:
    socket = {"unix": True, "local": None, "peer": None, "tls": False, "keepalives": None}
    survey = known(
        target={"hosts": (Host("/run", "", 5432),), "connect_timeout": None, "sslmode": "prefer"},
        asked=dict.fromkeys(ASKED, None),
        facts={"path": Path.UNIX_SOCKET},
        socket=socket,
        tls=None,
    )
    assert findings(survey) == ()


def test_the_worst_come_first() -> None:
    survey = known(
        failed="TCP", retryable=True, target={"connect_timeout": None}, asked={"keepalives": 0}
    )
    assert numbers(findings(survey)) == ["E003", "W101", "W109"]


@pytest.mark.parametrize("stage", NAMES)
@pytest.mark.parametrize("retryable", [True, False])
def test_every_stage_that_fails_is_an_error(stage: str, retryable: bool) -> None:
    found = findings(known(failed=stage, retryable=retryable))
    assert numbers(found) == ["E003" if retryable else "E004"]
    (one,) = found
    assert f"The stage {stage} failed" in one.evidence
    assert all(rest in one.evidence for rest in NAMES[NAMES.index(stage) + 1 :])


def test_a_certificate_that_is_refused_is_told_once() -> None:
    assert numbers(findings(known(**REFUSED))) == ["E007"]
    assert numbers(findings(known(failed="TLS", certificate=OLD))) == ["E005"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_without_a_connection_only_the_settings_are_judged(case: Case) -> None:
    survey = replace(case.bad, walk=UNWALKED, client=None, server=None, pooler=None)
    survey = replace(survey, limits=None, measured=None)
    assert findings(survey, connects=True) == ()
    assert {one.id for one in findings(survey)} <= {
        one.id for one in RULES.values() if not one.connects
    }


def test_both_halves_make_the_whole() -> None:
    survey = known(socket=keepalives(keepalives=False), server={"used": 97})
    halves = [findings(survey, connects=each) for each in (False, True)]
    assert [numbers(half) for half in halves] == [["W101"], ["W143"]]
    assert numbers(findings(survey)) == ["W101", "W143"]


def test_levels_are_those_of_the_ids_and_djangos() -> None:
    assert [level.word for level in sorted(Level, reverse=True)] == ["error", "warning", "info"]
    assert [RULES[f"resilient_pg.{one}"].level for one in ("E001", "W101", "I204")] == [40, 30, 20]


def test_an_id_is_given_once() -> None:
    with pytest.raises(ValueError, match=r"resilient_pg\.E001 is taken by refused"):
        rule("E001", "Another")(lambda survey: None)


def test_times_in_words() -> None:
    assert [seconds(each) for each in (20.0, 0.5, None)] == ["20 s", "0.5 s", "unlimited"]
