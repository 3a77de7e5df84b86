"""The reference split into train, validation and test: which records are related, who goes where, what leaks.

Belongs here: whatever follows from sequences, frames and the catalogue alone. Does not: features, encoders, training,
the orchestrator.
"""
