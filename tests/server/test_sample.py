"""The report in docs/checkdbconn.rst is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testproject.sample import sample

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parents[2]


def normal(text: str) -> list[str]:
    """Words, without what differs between two runs: numbers, and the test CA's random name."""
    text = re.sub(r"#[\w-]+", "#", text)
    return re.sub(r"\d+", "0", text).split()


@pytest.mark.psycopg3
def test_the_documented_report_is_the_commands_own() -> None:
    text = (ROOT / "docs" / "checkdbconn.rst").read_text(encoding="utf-8")
    ((block),) = re.findall(r"^\.\. figures: sample\n(.*?)^\.\. figures end$", text, re.M | re.S)
    shown = block.split(".. code-block:: text\n\n")[1]
    assert normal(shown) == normal(sample())
