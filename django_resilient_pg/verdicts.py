"""Where :class:`.signals.Reason` was documented before 1.0; works until 2.0."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from .policy import error_table

if TYPE_CHECKING:
    from .policy.error_table import Reason

__all__ = ["Reason"]


def __getattr__(name: str) -> object:
    if name != "Reason":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "django_resilient_pg.verdicts.Reason will be removed in 2.0. Import Reason from"
        " django_resilient_pg.signals.",
        DeprecationWarning,
        stacklevel=2,
    )
    return error_table.Reason
