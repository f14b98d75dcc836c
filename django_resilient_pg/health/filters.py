"""Filters of the status page's template."""

from __future__ import annotations

from django import template

from ..policy.messages import seconds

register = template.Library()


@register.filter
def duration(value: float | None) -> str:
    """Seconds as people write them; ``None``: no limit."""
    return "no limit" if value is None else seconds(value)


@register.filter
def version(number: int) -> str:
    """A server's version: 180006 is 18.6."""
    return f"{number // 10_000}.{number % 10_000}" if number else "not known"
