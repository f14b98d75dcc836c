"""The idle probe on a path of our making: its plan, its arithmetic and its words. Nothing waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_resilient_pg.diagnosis.findings import findings
from django_resilient_pg.diagnosis.idle_probe.advice import (
    Cure,
    cure,
    measured,
    sentences,
    settings,
)
from django_resilient_pg.diagnosis.idle_probe.probe import (
    DEFAULT,
    ProbeResult,
    Progress,
    probe_idle,
)
from django_resilient_pg.diagnosis.idle_probe.series import times
from django_resilient_pg.diagnosis.idle_probe.sessions import Ending, How
from django_resilient_pg.diagnosis.path.attempts import Refusal, Refused
from django_resilient_pg.policy.verdicts import Reason
from tests.unit.surveys import STOCK, known

pytestmark = pytest.mark.once_per_driver

PATIENCE = 3.0
SERVER = Ending(
    How.SAID,
    "terminating connection due to idle-session timeout",
    Reason.SERVER_IDLE_TIMEOUT,
)
RESTART = Ending(How.SAID, "the database system is shutting down", Reason.RESTART)


@dataclass
class Path:
    """A path that ends sessions idle for ``timeout``, all at ``cut_at``, or old ones at ``age``."""

    timeout: float = float("inf")
    ending: Ending = field(default_factory=lambda: Ending(How.SILENT))
    keepalives_help: bool = True
    age: float = float("inf")
    cut_at: float = float("inf")
    most: int = 100
    interrupt_at: float = float("inf")
    now: float = 1000.0
    opened: list[PathSession] = field(default_factory=list)
    told: list[Progress] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if self.now - 1000.0 >= self.interrupt_at:
            raise KeyboardInterrupt
        self.now += seconds

    def connect(self, keepalives: bool) -> PathSession:
        if len(self.opened) >= self.most:
            raise Refused(Refusal("too many connections", True, "sorry, too many", False, 0.0))
        self.now += 0.01
        self.opened.append(PathSession(self, keepalives))
        return self.opened[-1]

    def probe(self, seconds: float) -> ProbeResult:
        result = probe_idle(
            self.connect,
            seconds,
            clock=self.clock,
            sleep=self.sleep,
            report=self.told.append,
            patience=PATIENCE,
        )
        assert len(self.opened) <= 16
        assert all(session.closed for session in self.opened)
        return result


class PathSession:
    def __init__(self, path: Path, keepalives: bool) -> None:
        self.path, self.keepalives = path, keepalives
        self.born = self.used = path.now
        self.dead = self.closed = False

    def _dead(self) -> bool:
        path = self.path
        saved = self.keepalives and path.keepalives_help
        forgotten = path.now - self.used >= path.timeout and not saved
        over = path.now - self.born >= path.age or path.now - 1000.0 >= path.cut_at
        self.dead = self.dead or forgotten or over
        return self.dead

    def look(self) -> Ending | None:
        assert not self.closed
        return self.path.ending if self._dead() and self.path.ending.how.seen else None

    def use(self, timeout: float) -> Ending | None:
        assert not self.closed
        if not self._dead():
            self.path.now += 0.002
            self.used = self.path.now
            return None
        self.path.now += timeout if self.path.ending.how is How.SILENT else 0.002
        return self.path.ending

    def close(self) -> None:
        self.closed = True


def test_what_is_silent_is_found_by_use() -> None:
    path = Path(timeout=9.0)
    result = path.probe(20.0)
    assert result.off.limited
    assert result.off.died is not None
    assert result.off.survived < 9.0 <= result.off.died
    assert result.off.died - result.off.survived < 0.6
    assert result.off.ending == Ending(How.SILENT)
    assert not result.on.limited
    assert result.on.survived == pytest.approx(20.0, abs=0.3)
    assert result.sessions == 16
    assert cure(result) is Cure.KEEPALIVES


def test_what_shows_is_found_at_once() -> None:
    path = Path(timeout=7.0, ending=Ending(How.CLOSED), keepalives_help=False)
    result = path.probe(400.0)
    for found in (result.off, result.on):
        assert found.limited
        assert found.complete
        assert found.died == pytest.approx(7.0, abs=0.2)
        assert found.died is not None
        assert found.died - found.survived < 0.3
    assert result.seconds < 9.0
    assert cure(result) is Cure.SHORT_IDLENESS


@given(
    timeout=st.floats(0.5, 1000.0),
    seconds=st.floats(5.0, 1000.0),
    how=st.sampled_from([How.SILENT, How.REFUSED, How.CLOSED]),
)
@hypothesis_settings(max_examples=12, deadline=None)
def test_the_interval_holds_the_timeout(timeout: float, seconds: float, how: How) -> None:
    path = Path(timeout=timeout, ending=Ending(how), keepalives_help=False)
    result = path.probe(seconds)
    assert result.seconds <= 4 * seconds + 8 * PATIENCE
    assert result.off.complete
    for found in (result.off, result.on):
        assert found.survived < timeout + 0.5
        if found.died is None:
            assert timeout > seconds
            assert found.survived >= seconds
        else:
            assert found.idle
            # Few sessions send keepalives: they tell whether that helps, the others the timeout.
            factor = 3.0 if found.keepalives else 1.1
            assert timeout <= found.died <= timeout * factor + 2.5 + PATIENCE
    if timeout > seconds:
        assert result.off.died is None


@pytest.mark.parametrize("timeout", [7.0, 60.0, 240.0, 350.0])
def test_the_usual_timeouts_are_found_in_the_default_time(timeout: float) -> None:
    found = Path(timeout=timeout).probe(DEFAULT).off
    assert found.died is not None
    assert found.survived < timeout <= found.died
    assert found.died - found.survived <= max(2.0, timeout / 20)


@given(timeout=st.floats(2.5, 900.0))
@hypothesis_settings(max_examples=8, deadline=None)
def test_the_interval_is_narrow_in_proportion(timeout: float) -> None:
    found = Path(timeout=timeout).probe(1000.0).off
    assert found.died is not None
    # A look every half second: what ends between two looks is that much wider.
    assert found.died - found.survived <= max(2.25, timeout / 10)


def test_no_timeout() -> None:
    result = Path().probe(30.0)
    assert result.off.survived >= 30.0
    assert result.on.survived >= 30.0
    assert result.seconds < 31.0
    assert cure(result) is Cure.NONE_NEEDED
    assert settings(result, resilient=True) == {}
    assert "no idle timeout up to 30.0 s" in " ".join(sentences(result))


def test_a_restart_is_no_idle_timeout() -> None:
    result = Path(cut_at=6.0, ending=RESTART).probe(20.0)
    assert result.off.died is not None
    assert not result.off.limited
    assert cure(result) is Cure.UNKNOWN
    assert "not for being idle" in sentences(result)[0]


@pytest.mark.parametrize("path", [Path(cut_at=12.0), Path(age=12.0)])
def test_all_ended_together_is_no_idle_timeout(path: Path) -> None:
    """Those that had been used a moment before ended, too."""
    path.ending = Ending(How.RESET)
    result = path.probe(20.0)
    assert result.off.died is not None
    assert result.off.died < 6.0
    assert not result.off.limited
    assert settings(result, resilient=True) == {}


def test_interrupted_it_tells_what_is_known() -> None:
    path = Path(timeout=350.0, interrupt_at=100.0)
    result = path.probe(400.0)
    assert result.interrupted
    assert not result.off.complete
    assert 60.0 < result.off.survived <= 100.0
    assert result.off.died is None
    assert "Interrupted after 100 s" in sentences(result)[-1]


def test_interrupted_while_connecting() -> None:
    path = Path()

    def connect(keepalives: bool) -> PathSession:
        if len(path.opened) == 5:
            raise KeyboardInterrupt
        return path.connect(keepalives)

    result = probe_idle(connect, 20.0, clock=path.clock, sleep=path.sleep)
    assert result.interrupted
    assert result.sessions == 5
    assert all(session.closed for session in path.opened)
    assert cure(result) is Cure.UNKNOWN
    assert settings(result, resilient=True) == {}


def test_fewer_sessions_than_wanted() -> None:
    result = Path(timeout=9.0, most=6).probe(20.0)
    assert result.sessions == 6
    assert (result.off.sessions, result.on.sessions) == (3, 3)
    assert result.off.died is not None
    assert result.off.survived < 9.0 <= result.off.died
    assert "6 sessions only, the next one was refused" in " ".join(sentences(result))


def test_not_even_one_session() -> None:
    with pytest.raises(Refused, match="too many"):
        Path(most=0).probe(20.0)


@pytest.mark.parametrize("seconds", [0.0, 4.9, -1.0, 86_401.0, float("nan"), float("inf")])
def test_seconds_out_of_bounds(seconds: float) -> None:
    with pytest.raises(ValueError, match="must be between 5 and 86400"):
        Path().probe(seconds)


def test_progress() -> None:
    path = Path(timeout=9.0)
    path.probe(20.0)
    seconds = [each.seconds for each in path.told]
    assert seconds == sorted(seconds)
    # Not longer than a second apart, but for one round trip that is not answered.
    gaps = [later - earlier for earlier, later in pairwise(seconds)]
    assert max(gaps) <= PATIENCE + 1.2
    assert path.told[0].alive == 16
    assert path.told[0].until == pytest.approx(20.0, abs=0.5)
    told = [each.told for each in path.told if each.told]
    assert "with keepalives: alive after 2.0 s idle" in told
    assert any(each.endswith("idle (silently)") for each in told)


def test_those_used_are_still_there_for_later_passes() -> None:
    """Else the interval could not be narrowed: three are used after the first pass."""
    path = Path(timeout=9.0)
    found = path.probe(600.0).off
    assert found.died is not None
    assert found.survived < 9.0 <= found.died
    assert found.died - found.survived < 2.0
    used = [each for each in path.opened if not each.keepalives and each.used > each.born]
    assert len(used) >= 3


@pytest.mark.parametrize("count", [0, 1, 2, 5, 11])
@pytest.mark.parametrize("seconds", [5.0, 20.0, 400.0])
def test_times(count: int, seconds: float) -> None:
    found = times(count, seconds)
    assert len(found) == count
    assert list(found) == sorted(set(found))
    if count:
        assert found[-1] == seconds
    if count > 1:
        assert found[0] == min(2.0, seconds / count)


def limited_by(**path: object) -> ProbeResult:
    return Path(**path).probe(20.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resilient", "expected"),
    [
        (True, {"OPTIONS": {"resilience": {"idle_timeout": 6.9}}}),
        (False, {"CONN_MAX_AGE": 3}),
    ],
)
def test_settings_against_a_proxy(resilient: bool, expected: dict[str, object]) -> None:
    result = limited_by(timeout=7.0, ending=Ending(How.CLOSED), keepalives_help=False)
    assert settings(result, resilient=resilient) == expected
    said = " ".join(sentences(result))
    assert "keepalives do not prevent it" in said
    assert "closed without a message" in said


@pytest.mark.parametrize("resilient", [True, False])
def test_settings_against_a_router(resilient: bool) -> None:
    result = limited_by(timeout=9.0)
    assert settings(result, resilient=resilient) == {
        "OPTIONS": {
            "keepalives": 1,
            "keepalives_idle": 4,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        }
    }
    said = " ".join(sentences(result))
    assert "silently" in said
    assert "counts keepalives as traffic" in said


def test_the_usual_keepalives_do_for_a_long_timeout() -> None:
    found = settings(Path(timeout=350.0).probe(400.0), resilient=True)
    assert found["OPTIONS"] == {
        "keepalives": 1,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def test_the_server_itself() -> None:
    result = limited_by(timeout=7.0, ending=SERVER, keepalives_help=False)
    said = " ".join(sentences(result))
    assert "terminating connection due to idle-session timeout" in said
    assert "idle_session_timeout" in said


def test_whether_keepalives_help_has_to_be_seen() -> None:
    """Interrupted after the one series has told its interval, before the other one could."""
    result = limited_by(timeout=5.5, interrupt_at=9.0)
    assert result.off.limited
    assert cure(result) is Cure.KEEPALIVES
    alone = limited_by(timeout=5.5, most=1)
    assert alone.on.sessions == 0
    assert alone.off.died is not None
    assert cure(alone) is Cure.SHORT_IDLENESS
    assert "was not seen" in " ".join(sentences(alone))


@pytest.mark.parametrize("helps", [True, False])
@pytest.mark.parametrize("how", [How.SILENT, How.REFUSED, How.CLOSED, How.RESET])
def test_every_sentence_is_one(how: How, helps: bool) -> None:
    for told in sentences(limited_by(timeout=6.0, ending=Ending(how), keepalives_help=helps)):
        assert told[0].isupper()
        assert told.endswith(".")
        assert "None" not in told


@pytest.mark.parametrize("timeout", [0.6, 1.5, 7.0, 60.0])
def test_the_probe_and_the_findings_ask_for_the_same(timeout: float) -> None:
    """Both are in one report, and an age above the timeout would help nobody."""
    path = Path(timeout=timeout, ending=Ending(How.CLOSED), keepalives_help=False)
    result = path.probe(80.0)
    survey = known(project=STOCK, measured=measured(result))
    found = {one.id: one for one in findings(survey)}["resilient_pg.W121"]
    assert found.fix == settings(result, resilient=False)
    router = Path(timeout=timeout).probe(80.0)
    kept = measured(router)
    assert kept is not None
    if kept.keepalives:
        assert settings(router, resilient=False) == {"OPTIONS": kept.keepalives}


@pytest.mark.parametrize("pool", [{}, {"min_size": 2, "max_idle": 60}])
def test_a_pool_is_told_in_its_own_words(pool: dict[str, float]) -> None:
    """Django refuses a pool together with CONN_MAX_AGE."""
    path = Path(timeout=7.0, ending=Ending(How.CLOSED), keepalives_help=False)
    result = path.probe(20.0)
    project = {**STOCK, "pool": pool, "conn_max_age": 0, "health_checks": False}
    (one,) = findings(known(project=project, measured=measured(result)))
    assert one.id == "resilient_pg.W127"
    fix = settings(result, resilient=False, pool=pool)
    assert (
        fix
        == one.fix
        == {
            "OPTIONS": {"pool": {"min_size": 0, "max_size": pool.get("min_size", 4), "max_idle": 3}}
        }
    )
    assert "resilience" in str(settings(result, resilient=True, pool=pool))
