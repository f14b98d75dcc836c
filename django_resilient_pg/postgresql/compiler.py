"""``ENGINE + ".compiler"``, as in the package above."""

from ..compiler import *
