"""Viral or not: DNABERT-S and ESM embeddings of short sequences as Dagster assets.

And the evidence on which to decide whether a protein model of 650 million parameters can replace one of 3 billion.
"""

import os

# Nothing calls home unless a person says otherwise. Set here, because the libraries read these at import.
for _switch in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "true")
# Threads that wait for others sleep. Spinning, as OpenMP does by itself, they take the cores that the others need:
# 600 frames took 57 s next to two busy loops, and 17 s like this. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
