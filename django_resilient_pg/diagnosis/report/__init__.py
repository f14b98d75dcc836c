"""What is shown: text, JSON, settings to paste.

Only the command imports it.
It may import all of ``diagnosis``.
"""
