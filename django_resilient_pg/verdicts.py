"""Where :class:`.signals.Reason` was documented before; kept for one release."""

from __future__ import annotations

from .policy.error_table import Reason

__all__ = ["Reason"]
