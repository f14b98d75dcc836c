"""The runnable example project, and what demo, tests and benchmarks need around it."""
