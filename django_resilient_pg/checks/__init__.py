"""Django's system checks, by subject.

Only the app imports it, when Django is ready.
It imports ``diagnosis``, ``state`` and ``conf``.
"""
