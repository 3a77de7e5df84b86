"""What a frame rule leaves without a verdict, and what the verdicts of the others are worth.

On the bundled genomes, by both frame rules: chunks and complete genes with a frame, frames to embed, and the AUROC of
records, each scored by models that saw no relative of it; one without any scored chunk counts as 0.5. The k-mer variant
scores a chunk by its longest stretch: by `stop_free` the same models count only in chunks with a frame without a stop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc

from benchmarks.common import Figures, options, publish
from benchmarks.out_of_fold import (
    FOLDS,
    LABELS,
    MIN_ORF_AA,
    RULES,
    Fitted,
    Genomes,
    Kmer,
    Miniature,
    auroc,
    chunked,
    intervals,
    out_of_fold,
    parsed,
)
from virnuc_assets.classifier.linear import CompositionRows
from virnuc_assets.sequences.composition import WIDTHS, composition_features
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.records import UNAMBIGUOUS
