"""What follows from the modes that were tried: which one to set. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..settings.target import Target
from .tls_refusals import Cause


@dataclass(frozen=True, slots=True)
class Rung:
    """What came of one value of ``sslmode``.

    Attributes:
        mode: the value.
        connects: whether a session came about; ``None``: not tried, or not to the end.
        encrypted: whether that was encrypted; ``None`` without a session.
        why_not: why it does not connect, or why not encrypted; a sentence or "".
        seconds: the attempt took; ``None``: not tried.
        cause: of a refusal that has to do with TLS.
        advice: what to do about it.
    """

    mode: str
    connects: bool | None
    encrypted: bool | None
    why_not: str = ""
    seconds: float | None = None
    cause: Cause | None = None
    advice: str = ""

    @property
    def stops(self) -> bool:
        """Whether it failed for a reason that no mode changes."""
        return self.connects is False and self.cause is None


def conclude(target: Target, rungs: Sequence[Rung], root: str) -> tuple[str | None, str]:
    """Return the mode to set now, if any is worth it, and why, or what has to change first.

    Args:
        target: the alias' own settings.
        rungs: all modes, from "disable" to "verify-full".
        root: the value of ``sslrootcert`` with which ``verify-full`` connects, "" if none does.
    """
    full = rungs[-1]
    proves = "it connects, encrypted, and verifies the server."
    if full.connects:
        keep = target.sslmode == full.mode
        return full.mode, f'{"Keep" if keep else "Set"} sslmode "{full.mode}": {proves}'
    if root:
        return full.mode, f'Set sslmode "{full.mode}" and sslrootcert "{root}": {proves}'
    stopped = next((each for each in reversed(rungs) if each.stops), None)
    if stopped is not None:
        return None, f"{stopped.why_not} No sslmode changes that: fix it, then try again."
    if not any(each.connects for each in rungs):
        return None, f"No mode connects. {_nothing(rungs)}"
    first = " ".join(filter(None, [full.why_not, full.advice]))
    return _meanwhile(rungs, f'{first} Then set sslmode "{full.mode}".')


def _nothing(rungs: Sequence[Rung]) -> str:
    refused = {Cause.ENCRYPTION_REQUIRED, Cause.ENCRYPTION_REFUSED}
    if {rungs[0].cause, rungs[-1].cause} == refused:
        return (
            "The server's pg_hba.conf has no entry for this user, database and address, encrypted "
            "or not. Add a hostssl line."
        )
    return " ".join(filter(None, [rungs[-1].why_not, rungs[-1].advice, "Then try again."]))


def _meanwhile(rungs: Sequence[Rung], first: str) -> tuple[str | None, str]:
    """The strongest mode that encrypts, until the reason is cured for which more does not."""
    best = next((each for each in reversed(rungs) if each.connects and each.encrypted), None)
    if best is None:
        modes = " or ".join(f'"{each.mode}"' for each in rungs if each.connects)
        return None, (
            f"{first} Until then there are connections with {modes} only, not encrypted: whoever "
            "is on the way can read and change everything."
        )
    limit = (
        "verifies the CA, but not the host name"
        if best.mode == "verify-ca"
        else "encrypts, but does not verify the server's identity"
    )
    return best.mode, f'{first} Until then use "{best.mode}", which {limit}.'
