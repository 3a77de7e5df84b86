"""Where tables are: asset = folder, shard = file, profiles apart."""

from pathlib import Path

from virnuc_assets.storage.layout import Layout, asset_of

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
