"""What the Makefile and tox run."""
