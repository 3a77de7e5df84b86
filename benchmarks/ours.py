"""This package's encoders as contenders: by the loading and the loop of every embedding run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings, Precision


def load(folder: Path, precision: Precision, device: str) -> Encoder:
    """An encoder from a checkpoint folder, loaded as a miniature is: from a folder that no lock has to name."""
    row = "esm2_650_miniature" if (folder / "vocab.txt").is_file() else "dnabert_s_miniature"
    encoding = EncodingSettings.model_validate({"precision": precision, "device": device})
    return load_encoder(replace(ENCODERS[row], name=folder.name), folder.parent, encoding)
