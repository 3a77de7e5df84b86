"""The Dagster assets, one module a stage, named as its group in the UI.

Bodies are thin: read tables, call the domain, write tables, return metadata. What a number means is decided
in the domain packages, never here.
"""
