"""The connection stages: network, TLS, certificates, login, pooler.

``survey`` and everything above may import from here.
It imports ``settings``.
"""
