"""What a text of SQL does and leaves in its session, told by the text alone. Pure.

``policy``, ``state`` and everything above may import from here.
It imports nothing of the package.
"""
