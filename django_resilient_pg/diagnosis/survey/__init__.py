"""All that one run finds out about one alias.

``findings`` and everything above may import from here.
It imports ``path`` and ``settings``.
"""
