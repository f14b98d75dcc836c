"""``ENGINE + ".client"``, as in the package above."""

from ..client import *
