"""What the engine knows of one alias in one thread: its connection, transaction and session.

Anything above may import these objects; they import nothing that recovers, connects or announces.
Only their own methods write their fields.
"""
