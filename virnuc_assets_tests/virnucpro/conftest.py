"""Fixture: classifiers pickled as VirNucPro pickles them."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnuc_assets_tests.made_once import made_once
from virnuc_assets_tests.virnucpro.files import Model, write_models

# Older versions keep a module's parts in ordered dicts, and pickle them so.
AS_OLDER_TORCH = """
from collections import OrderedDict
for module in model.modules():
    for part in ("_parameters", "_buffers", "_modules"):
        module.__dict__[part] = OrderedDict(module.__dict__[part])
"""
# Modules as VirNucPro pickles them, and every change that the import has to notice.
MODELS = {
    "small": Model(6, 4),
    "older_torch": Model(6, 4, change=AS_OLDER_TORCH),
    "three_classes": Model(6, 4, 3),
    "another_layer": Model(6, 4, change="model.bn2 = nn.BatchNorm1d(4)"),
    "renamed": Model(6, 4, change="model.hidden, _ = model.hidden_layer, delattr(model, 'hidden_layer')"),
    "activation": Model(6, 4, change="model.dropout = nn.ReLU()"),
    "nested": Model(6, 4, change="model.hidden_layer.inner = nn.Dropout(0.1)"),
    "other_eps": Model(6, 4, change="model.bn1.eps = 0.5"),
    "half": Model(6, 4, change="model.half()"),
    "not_finite": Model(6, 4, change="model.output_layer.bias.data[0] = float('nan')"),
    "repeated": Model(6, 4, change="model.hidden_layer.weight = nn.Parameter(torch.ones(1, 1).expand(4, 1 << 40))"),
    "another_class": Model(6, 4, change="model = Net()"),
    "state_dict": Model(6, 4, change="model = model.state_dict()"),
}


@pytest.fixture(scope="session")
def upstream_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `MODELS`."""
    return made_once(tmp_path_factory, "models", lambda folder: write_models(folder, MODELS))
