"""What follows a loss: verify, replace, retry a statement, settle a COMMIT.

The engine, ``pool`` and ``replay`` may import from here.
It imports ``connecting``, ``state`` and what these may import.
"""
