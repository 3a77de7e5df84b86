"""Benchmarks: each `make bench-NAME` runs all that it compares side by side and writes `var/bench/NAME.json`.

Here belongs what is compared with and how it is measured. The package and its tests import nothing from here.
"""
