"""Connecting until the deadline, and what follows a new connection.

``recovery``, ``pool`` and the engine may import from here.
It imports ``state``, ``driver``, ``policy`` and what these may import.
"""
