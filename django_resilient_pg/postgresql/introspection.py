"""``ENGINE + ".introspection"``, as in the package above."""

from ..introspection import *
