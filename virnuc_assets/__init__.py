"""Viral or not: DNABERT-S and ESM embeddings of short sequences as Dagster assets, and the evidence for a smaller protein model."""

import os

# Nothing calls home unless a person says otherwise. Set here, because the libraries read these at import.
for _switch in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "true")
