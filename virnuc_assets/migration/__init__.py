"""Whether the candidate encoder may replace the baseline: paired comparison, criteria, verdict, report.

Belongs here: pure functions from evidence already stored (prediction tables, classifier descriptions,
benchmark) to a decision and its pages. Does not: embedding, training, tables on disk, the orchestrator.
"""
