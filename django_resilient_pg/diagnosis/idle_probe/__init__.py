"""The idle timeout of the path, measured.

``report`` may import from here.
It imports ``findings``, ``survey`` and what these may import.
"""
