"""Where tables are: asset = folder, shard = file, profiles apart."""

from pathlib import Path

import pytest

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.layout import Layout, asset_of, require_layout

VAR = Path("/project/var")


def test_a_shard_is_a_file_in_its_assets_folder() -> None:
    layout = Layout(VAR, "miniature")
    path = layout.table("reference", "fastesm2_650_embeddings", "viral-0007")
    assert path == VAR / "miniature/reference/fastesm2_650_embeddings/viral-0007.parquet"
    assert asset_of(path) == "reference/fastesm2_650_embeddings (partition viral-0007)"
    assert asset_of(layout.table("samples", "ledger", "a-b-000007")) == "samples/translated_proteins (partition a-b)"
    assert [asset_of(layout.plan("reference")), asset_of(layout.plan("samples", "a-b"))] == [
        *("reference/shard_plan", "samples/shard_plan")
    ]


def test_results_of_the_former_layout_are_refused_by_name(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "miniature")
    plan = layout.plan("reference")
    plan.parent.mkdir(parents=True)
    plan.touch()
    require_layout(layout)
    for name in ("HIV1", "phiX174"):
        plan.with_stem(name).touch()
    with pytest.raises(VirnucError, match="2 plans of the former layout, e.g. HIV1.parquet") as caught:
        require_layout(layout)
    assert f"Remove the folders {tmp_path / 'miniature/reference'} and {tmp_path / 'miniature/samples'}" in str(
        caught.value
    )
