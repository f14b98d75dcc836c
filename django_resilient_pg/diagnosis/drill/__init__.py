"""Terminating the command's own sessions, and what recovers.

``report`` may import from here.
It imports ``survey`` and what it may import.
"""
