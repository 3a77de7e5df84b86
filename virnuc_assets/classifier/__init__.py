"""From joined feature vectors to calls: sampling, the MLP, its training, file, scores and metrics.

Belongs here: whatever would be the same for any pair of encoders. Does not: how vectors are made, where tables
are stored, which encoder wins, VirNucPro's files, the orchestrator.
"""
