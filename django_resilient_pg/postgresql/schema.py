"""``ENGINE + ".schema"``, as in the package above."""

from ..schema import *
