"""Django's hooks, by subject, over the state of a wrapper; ``mixins`` makes an engine of them.

Cursors come first, transactions are built on them, connecting and closing on both.
They import ``cursors``, ``state`` and ``driver``; what recovers and connects, when it is needed.
"""
