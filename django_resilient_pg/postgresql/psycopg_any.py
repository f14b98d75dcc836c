"""``ENGINE + ".psycopg_any"``, as in the package above."""

from ..psycopg_any import *
