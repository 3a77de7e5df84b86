"""What an encoder is, which exist, how sequences become vectors, and how an encoder is fine-tuned.

Belongs here: the registry, checkpoints and their fingerprints, the models, tokenization, pooling, the embedding loop,
fine-tuning, attention. Does not belong here: downloads, reading sequences, writing tables, the orchestrator.
"""
