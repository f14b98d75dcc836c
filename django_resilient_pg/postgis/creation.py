"""``ENGINE + ".creation"``: GeoDjango's engine uses that of PostgreSQL."""

from ..creation import *
