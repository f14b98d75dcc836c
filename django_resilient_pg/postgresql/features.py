"""``ENGINE + ".features"``, as in the package above."""

from ..features import *
