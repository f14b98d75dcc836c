"""What ``checkdbconn`` and the system checks find out, and what they conclude from it.

The modules here look, with a limit on every wait, and judge; none of them prints or exits.
"""
