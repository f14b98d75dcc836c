"""``ENGINE + ".creation"``, as in the package above."""

from ..creation import *
