"""One physical connection, and the only code that knows psycopg 3 from psycopg2.

``state`` and everything above may import from here.
It imports ``policy``, ``facts``, ``sql`` and ``conf``.
"""
