"""Where tables lie: asset = folder, shard = file, profiles apart."""

from pathlib import Path

from virnuc_assets.storage.layout import Layout, asset_of

VAR = Path("/project/var")


def test_a_shard_is_a_file_in_its_assets_folder() -> None:
    path = Layout(VAR, "miniature").table("reference", "fastesm2_650_embeddings", "viral.1.1-000007")
    assert path == VAR / "miniature/reference/fastesm2_650_embeddings/viral.1.1-000007.parquet"
    assert asset_of(path) == "reference/fastesm2_650_embeddings (partition viral.1.1-000007)"


def test_no_two_things_share_a_path() -> None:
    layouts = [Layout(VAR, "miniature"), Layout(VAR, "full")]
    paths = [
        path
        for layout in layouts
        for path in (
            layout.table("reference", "ledger", "a-000001"),
            layout.table("samples", "ledger", "a-000001"),
            layout.table("samples", "ledger", "a-000002"),
            layout.plan("reference", "a"),
            layout.plan("samples", "a"),
            layout.classifier("fastesm2"),
            layout.classifier("esm2_3b"),
            layout.sample_report("a"),
            layout.whole("migration_decision"),
            layout.whole("migration_decision", ".html"),
        )
    ]
    assert len(set(paths)) == len(paths)
    assert {path.parents[-3] for path in paths} == {VAR}
