"""What a machine needs before and between runs: set-up of checkpoints, and devices that one process uses at a time.

Belongs here: downloads and conversions of checkpoints, locks of devices. Does not belong here: what an encoder is, and
how one is loaded.
"""
