"""What an error means, what may be retried, for how long, and in which words that is said. Pure.

``driver``, ``state`` and everything above may import from here.
It imports ``facts``, ``providers``, ``sql`` and ``conf``.
"""
