"""Mutation check of the layers that decide: does a unit test notice each small change?

``make mutants`` changes the modules of :data:`.targets.TARGETS` in one place at a time and runs the
unit tests concerned. A change that no test notices has survived: it is killed by a better test, or
``explained.toml`` says why it changes nothing. The exit status is 1 if one is neither.
"""
