"""What a test is told about an outage that could not be made."""

from __future__ import annotations


class OutageError(Exception):
    """The outage cannot be made here: the message says why, and what to change."""


class FaultNotReached(AssertionError):
    """The block is over, and nothing in it has met the fault: the test has shown nothing."""
