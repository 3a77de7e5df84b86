"""Tables on disk: schemas that carry their dims, provenance in every file, and writes that are whole or absent.

Nothing here knows what a sequence, a model or an orchestrator is.
"""
