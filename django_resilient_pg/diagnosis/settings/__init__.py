"""What is configured for an alias: target, hosts, secrets that stand in the wrong place.

Everything in ``diagnosis`` may import from here.
It imports nothing else of ``diagnosis``.
"""
