"""``ENGINE + ".operations"``, as in the package above."""

from ..operations import *
