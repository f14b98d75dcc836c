"""This engine beside its peers in one run: what each costs, and what each does under a fault."""
