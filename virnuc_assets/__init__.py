"""Viral or not: DNABERT-S and ESM embeddings of short sequences as Dagster assets.

And the evidence on which to decide whether a protein model of 650 million parameters can replace one of 3 billion.
"""

import os

# Nothing calls home unless a person says otherwise. Set here, because the libraries read these at import.
for _switch in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "true")
