"""Runs Django's own database tests on the stock engine and on this one, and compares."""
