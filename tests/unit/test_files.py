"""The files of the tests: each is about one subject, and short enough to be read."""

from __future__ import annotations

import pytest

from tests.children import ROOT

pytestmark = pytest.mark.once

MOST = 599


def test_no_file_of_tests_is_long() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert len(lines) > 300
    assert [path for path, count in lines.items() if count > MOST] == []
