"""The graph materialized for real: small projects in temporary folders, on Dagster instances of their own."""
