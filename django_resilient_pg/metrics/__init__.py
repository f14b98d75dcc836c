"""Metrics of what the engine announces, fed by its signals alone.

:mod:`.prometheus` and :mod:`.opentelemetry` each need the extra of their name. Neither is imported
unless INSTALLED_APPS names it.
"""
