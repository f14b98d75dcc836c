"""``ENGINE + ".client"``: GeoDjango's engine uses that of PostgreSQL."""

from ..client import *
