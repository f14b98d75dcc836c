"""What a failed attempt to connect says of its server. Imported when one has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.db.utils import Error, OperationalError, ProgrammingError

from ..driver.exceptions import failure, judge_error
from ..errors import CredentialsUnavailable, ServerDown, SessionLost
from ..policy import messages
from ..policy.verdicts import Phase
from ..state.logins import was_refused

if TYPE_CHECKING:
    from ..policy.verdicts import Verdict
    from ..state.wrapper import Wrapper

# Rules of ``error_table.TABLE`` for an attempt that ended without a word.
_CUT: Final = frozenset({"cut", "closed by the server", "broken stream"})
# Not about the server. Django raises ProgrammingError for a closed connection in an atomic block.
_OWN: Final = (CredentialsUnavailable, ProgrammingError, SessionLost)


def is_down(db: Wrapper, failed: BaseException) -> bool:
    """Whether the server could not be reached, for now."""
    if not isinstance(failed, Error) or isinstance(failed, _OWN):
        return False
    if getattr(failed.__cause__, "final", False):
        return False
    verdict = judge_error(None, failed, Phase.CONNECT)
    if _marked(failed, "unheard"):
        return not verdict.final
    worth = _is_worth_waiting(db, verdict) if _is_refusal(failed) else verdict.transient
    return worth and not verdict.final


def is_worth_waiting(db: Wrapper, failed: BaseException) -> bool:
    """Whether the driver's own error, of an attempt that was left, is transient."""
    return _is_worth_waiting(db, judge_error(None, failed, Phase.CONNECT))


def may_rotate(db: Wrapper, failed: BaseException) -> bool:
    """Whether the server refused credentials that may have been changed just now."""
    dynamic = db.resilience.options.credentials is not None
    return dynamic and isinstance(failed, Error) and was_refused(failed)


def was_cut_short(failed: BaseException) -> bool:
    """Whether no address has said anything in time: an earlier error tells more."""
    return _marked(failed, "cut_short")


def explain(db: Wrapper, error: Error) -> None:
    """Say why a refusal that nobody knows is not waited for."""
    if isinstance(error, (ServerDown, *_OWN)) or _marked(error, "final"):
        return
    verdict = judge_error(None, error, Phase.CONNECT)
    if not verdict.final and _is_refusal(error):
        note = messages.direct_tls if _is_direct(db, verdict) else messages.never_connected
        error.add_note(note(db.alias))


def _is_worth_waiting(db: Wrapper, verdict: Verdict) -> bool:
    # Whether the alias has connected before, with the settings that it has now.
    if verdict.final or db.resilience.shared.connected == db._connector.settings:
        return not verdict.final
    return verdict.transient and not _is_direct(db, verdict)


def _is_direct(db: Wrapper, verdict: Verdict) -> bool:
    """Whether the server does not support direct TLS, by all appearances."""
    return db._connector.direct and verdict.rule in _CUT


def _marked(error: BaseException, mark: str) -> bool:
    """Whether an error is marked so, or the driver's error that it is a translation of."""
    return any(getattr(one, mark, False) for one in (error, error.__cause__))


def _is_refusal(error: BaseException) -> bool:
    """Whether a server, or what stands for it, has refused a connection.

    Not what a ``connection_created`` receiver has run on it, which has failed with an SQLSTATE, and
    nothing that Django says by itself.
    """
    if not (isinstance(error, OperationalError) and _marked(error, "not_connected")):
        return False
    found = failure(error, Phase.CONNECT, connection_lost=None)
    return found.sqlstate is None or found.severity in {"FATAL", "PANIC"}
