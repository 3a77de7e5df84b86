"""Benchmarks: a make target measures all that it compares in one run. The package imports nothing from here."""
