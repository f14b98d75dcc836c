"""The same engine under a path that says "postgresql"; see :mod:`.base`."""
