"""Runs the own tests of other packages on the stock engine and on this one, and compares."""
