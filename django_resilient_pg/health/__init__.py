"""Health probes and the status page: what ``django_resilient_pg.urls`` leads to.

Nothing of the engine imports this folder. It asks databases on connections of its own, which it
closes at once, and never waits for the application's connections or pools.
"""
