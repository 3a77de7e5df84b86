"""A project that can classify in a second: its serving classifier reads k-mers, and no encoder has weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from virnuc_assets.classifier.checkpoint import ClassifierDescription, LinearModel, save_classifier
from virnuc_assets.defs.provenance import variant_fingerprints
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.loading import vector_width
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.settings import SequenceSettings, load_settings

LONGEST = FrameRule("longest_orf", SequenceSettings().min_orf_aa)


def kmer_project(root: Path, rule: FrameRule = LONGEST) -> Path:
    """Its classifier is not trained; its weights are such that records have every call."""
    root.mkdir()
    (root / "virnuc.toml").write_text('profile = "miniature"\n[serving]\nvariant = "kmer"\n')
    workspace = Workspace(load_settings(root))
    variant = workspace.variant("kmer")
    dna, protein = (vector_width(workspace.encoder(name), None) for name in (variant.dna, variant.protein))
    description = ClassifierDescription(
        variant="kmer",
        encoders=variant_fingerprints(workspace, variant),
        dna_dim=dna,
        protein_dim=protein,
        merged_dim=dna + protein,
        chunk_length=500,
        frame_rule=rule.name,
        min_orf_aa=rule.min_orf_aa,
        temperature=1.5,
    )
    weights = 5 * np.random.default_rng(0).normal(size=dna + protein)
    even = np.sqrt(np.concatenate([np.full(words, 1 / words) for words in (dna, 64, 20, 400)] + [np.full(3, 0.3)]))
    model = LinearModel.of(weights, float(-weights @ even) - 7)
    save_classifier(workspace.layout.classifier("kmer"), model, description)
    return root
