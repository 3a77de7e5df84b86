"""Sequence files in, chunks and open reading frames out.

Here belongs what a virologist could check by hand: reading FASTA and GenBank, chunk geometry, six-frame
translation, the ledger of what was scored and what was not. No torch, no files of results, no orchestrator.
"""
