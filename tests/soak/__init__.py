"""Every fault at random for as long as you like, while processes and threads work.

``make soak MINUTES=30`` prints a line a minute: what was done, what failed, and what each process
and the server hold when nobody works. A ledger says at the end of each minute what the database
should have. See :mod:`tests.soak.storm` for the faults.
"""
