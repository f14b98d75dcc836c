"""Figures beside the stock engine's, paired in one run."""
