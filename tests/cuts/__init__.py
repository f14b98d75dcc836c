"""Every cut of every conversation: what the guarantees are worth, message by message.

A proxy counts the messages of PostgreSQL's protocol and cuts a unit of work's conversation at each
of them, in each way. ``make cuts`` runs all cases and prints what came of them;
``make cuts ARGS="--only NAME"`` repeats one.
"""
