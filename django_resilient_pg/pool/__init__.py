"""``OPTIONS["pool"]``: psycopg_pool without its waits.

Only the engine imports it, at the first use of a pool.
It imports ``recovery``, ``connecting`` and what these may import.
"""
