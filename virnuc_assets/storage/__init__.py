"""Tables on disk: schemas that carry their dims, provenance in every file, and writes that are whole or absent.

Files of torch are read here too, as data. Nothing here knows what a sequence, a model or an orchestrator is.
"""
