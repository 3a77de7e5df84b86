"""From joined feature vectors to calls: relatives, split, sampling, the MLP, its training, file, scores and metrics.

Belongs here: whatever would be the same for any pair of encoders, and VirNucPro's files. Does not: how
vectors are made, where tables lie, which encoder wins, the orchestrator.
"""
