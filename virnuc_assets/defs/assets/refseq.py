"""Group `sources`: an NCBI RefSeq release, downloaded and catalogued.

In the graph only if virnuc.toml has a section `[refseq]`; its folder is then one of the catalogues.
"""

import time
from typing import Any

import dagster as dg

from virnuc_assets.defs.metadata import result, shown_table
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import OWNERS
from virnuc_assets.sequences.refseq import RefseqError, altered_files, download_release
from virnuc_assets.settings import RefseqSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.download import Fetcher

GROUP = "sources"
RELEASE = REFERENCE.key("refseq_release")
_LOG_EVERY_S = 5.0


def is_downloaded(workspace: Workspace) -> bool:
    """Whether the release of the settings is there."""
    try:
        workspace.catalogue()
    except RefseqError:
        return False
    return True


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The release, with the check of its files; nothing without the section."""
    if (settings := workspace.settings.refseq) is None:
        return []

    @dg.asset_check(asset=RELEASE, blocking=True)
    def downloaded_files_match_checksums() -> dg.AssetCheckResult:
        """Every file of the release has on disk the MD5 of NCBI's list."""
        return result(altered_files(settings, workspace.settings.root / settings.folder))

    return [_release_asset(workspace, settings), downloaded_files_match_checksums]


def _release_asset(workspace: Workspace, settings: RefseqSettings) -> dg.AssetsDefinition:
    root = workspace.settings.root
    ca_bundle = root / settings.ca_bundle if settings.ca_bundle else None

    @dg.asset(key=RELEASE, group_name=GROUP, kinds={"fasta", "genbank"}, owners=OWNERS, code_version="1")
    def refseq_release(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Fetches all viruses of an NCBI RefSeq release and a seeded draw of hosts, as VirNucPro does.

        Each file is resumed where it broke off and compared with NCBI's checksum. What is there is not fetched again,
        so a run that died is continued by the next. The catalogue is written when all files are whole.

        If its check fails, files were altered or removed: materialize it again, which fetches those.
        """
        logged_at = 0.0

        def log(name: str, number: int, count: int, done: int, total: int | None) -> None:
            nonlocal logged_at
            if time.monotonic() - logged_at >= _LOG_EVERY_S:
                logged_at = time.monotonic()
                of_all = f" of {total / 1e6:.1f}" if total else ""
                context.log.info(f"file {number} of {count}, {name}: {done / 1e6:.1f}{of_all} MB")

        folder = root / settings.folder
        entries, fetched = download_release(settings, folder, Fetcher(ca_bundle), log)
        files = fetched.values()
        version = digest_of({name: file.digests["sha256"] for name, file in fetched.items()})
        metadata: dict[str, Any] = {
            "release": settings.release,
            "seed": settings.seed,
            "files": len(files),
            "bytes": sum(file.bytes for file in files),
            "files_fetched": sum(not file.reused for file in files),
            "files_reused": sum(file.reused for file in files),
            "bytes_received": sum(file.received for file in files),
            "draw": shown_table(map(vars, entries), ("directory", "fasta", "genbank")),
            "digest": version,
            "folder": dg.MetadataValue.path(str(folder)),
        }
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))

    return refseq_release
