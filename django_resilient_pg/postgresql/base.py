"""``"ENGINE": "django_resilient_pg.postgresql"``: the engine ``django_resilient_pg`` itself.

Some packages look for "postgresql" in ``ENGINE``, or take its last part for the kind of database
(see docs/packages.rst). With this path they find it.
"""

from ..base import DatabaseWrapper

__all__ = ["DatabaseWrapper"]
