"""What tests say they need of the system: what is told where it is missing, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import needs

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"a": ["pgbouncer"], "b": ["pgbouncer", "haproxy"], "c": ["GDAL"]}


def test_the_closing_line_says_how_many_for_want_of_what_and_what_to_do() -> None:
    assert needs.closing_line(SKIPPED) == (
        "3 tests were skipped for want of pgbouncer (2), haproxy (1), GDAL (1). "
        "To run them too: sudo make system-packages"
    )


def test_one_test_is_one_test() -> None:
    assert needs.closing_line({"a": ["GEOS"]}).startswith("1 test was skipped for want of GEOS (1)")


def test_no_package_makes_somebody_root() -> None:
    line = needs.closing_line({"a": ["CAP_SYS_ADMIN"]})
    assert needs.INSTALL not in line
    assert "root" in line


def test_nothing_is_said_where_nothing_was_skipped() -> None:
    assert needs.closing_line({}) == ""


def test_the_skips_of_several_runs_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(needs.FOLDER, str(tmp_path / "skipped"))
    assert needs.note(SKIPPED) == ""
    (noted,) = (tmp_path / "skipped").iterdir()
    noted.rename(noted.with_name("of another run"))
    needs.note({"a": ["pgbouncer"], "d": ["haproxy"]})
    needs.main(["told", str(tmp_path / "skipped")])
    assert capsys.readouterr().out.startswith("4 tests were skipped")


def test_without_runs_there_is_nothing_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.main(["told", str(tmp_path / "nowhere")])
    assert capsys.readouterr().out == ""


def test_a_need_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r'"odyssey" is not one of the needs .*pgbouncer'):
        needs.lacking("odyssey")


def test_what_a_test_has_not_named_it_does_not_get() -> None:
    """Wherever it runs: so the mark is not forgotten where everything is installed."""
    with pytest.raises(LookupError, match=r'needs\("pgbouncer"\)'):
        needs.check_named("pgbouncer")
    with pytest.raises(LookupError, match=r'needs\("PostGIS"\)'):
        needs.postgres_with("PostGIS")


def test_the_packages_are_those_that_are_installed() -> None:
    script = (ROOT / "scripts" / "system_packages.sh").read_text(encoding="utf-8")
    (packages,) = re.findall(r'^packages="(.*)"$', script, re.M)
    assert set(packages.split()) == {one.package for one in needs.NEEDS.values() if one.package}
