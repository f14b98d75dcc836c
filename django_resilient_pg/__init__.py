"""A Django database engine for PostgreSQL that outlives its connections."""

__version__ = "0.1.0"
