"""Benchmarks: each `make bench-NAME` measures all that it compares in one run and writes `var/bench/NAME.json`.

What is compared with, and how it is measured, belongs here. The package imports nothing from here.
"""
