"""The Dagster assets, one module for each group of the UI or a part of it.

Bodies are thin: read tables, call the domain, write tables, return metadata. What a number means is decided
in the domain packages, never here.
"""
