"""Stand-in until the training helper lands."""

import dagster as dg
import pyarrow as pa

from virnuc_assets.resources import Workspace

ABLATIONS = "ablations"


def current_ablations(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, pa.Table]:
    return {}
