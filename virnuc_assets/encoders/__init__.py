"""What an encoder is, which exist, and how sequences become vectors.

Belongs here: the registry, checkpoints and their fingerprints, the models, tokenization, pooling, the one
embedding loop and its benchmark. Does not belong here: reading sequences, writing tables, the orchestrator.
"""
