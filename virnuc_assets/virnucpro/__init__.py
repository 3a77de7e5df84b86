"""The original's file formats, in and out: merged and one-sided vectors, its classifier, its two result files.

What VirNucPro wrote is read as plain data and never executed; nothing here trains or embeds.
"""
