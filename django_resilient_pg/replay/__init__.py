"""When a request may be replayed, and what it is put back to.

The middleware and ``transaction`` may import from here.
It imports ``recovery``, ``state`` and what these may import.
"""
