"""The engine for GeoDjango; see :mod:`.base`."""
