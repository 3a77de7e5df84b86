"""Two hosts share Postgres and S3: one is cut off in the middle of a backfill and comes back; all ends exactly once."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pytest
import yaml

from virnuc_assets.defs.launchers.steps import SLURM_TAG
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.storage.places import state_of
from virnuc_assets.storage.tables import content_digest, require_content
from virnuc_assets_tests.assets.project import Project, failures
from virnuc_assets_tests.launching.definitions import ASSET
from virnuc_assets_tests.launching.platform import Platform, events_of, framed_project, launch, platform
from virnuc_assets_tests.launching.slurm_cluster import DEPLOYED, Cluster, Node, becomes, job_of, quick, running_cluster
from virnuc_assets_tests.postgres_server import PostgresServer, postgres_server
from virnuc_assets_tests.running import until
from virnuc_assets_tests.storage.s3_server import BUCKET, S3Server, s3_server

pytestmark = pytest.mark.slurm
pytest_plugins = ["virnuc_assets_tests.assets.finished"]

FIRST, SECOND = "192.0.2.1", "192.0.2.2"  # of a block that no real network has
_SWITCH, _PORT = "virnuc-switch", "virnuc-port"


class Host(NamedTuple):
    """A host next to this one; files and processes are common to both.

    Attributes:
        name: what it calls itself.
        inside: what a command begins with to run on it.
    """

    name: str
    inside: tuple[str, ...]

    def cut_off(self) -> None:
        """Pull its cable: from now on no packet arrives, in either direction, and neither host notices."""
        _ip("link", "set", _PORT, "down")

    def come_back(self) -> None:
        """Plug it in again."""
        _ip("link", "set", _PORT, "up")


@contextlib.contextmanager
def second_host(name: str) -> Iterator[Host]:
    """A host at `SECOND`, next to this one at `FIRST`; both addresses are gone at the end.

    Needs root, and a network of the tests' own: servers that listen on all addresses shall be nobody else's.
    """
    others = subprocess.run(["ip", "route", "show", "default"], check=True, capture_output=True, text=True).stdout
    assert not others, f"this network has a way out, {others.strip()}; expected none. Run `make test-slurm`"
    # It lasts as long as this process is in it, or another one.
    first = ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name} && echo up && exec sleep infinity"]
    with subprocess.Popen(first, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            host = Host(name, ("nsenter", f"--target={process.pid}", "--net", "--uts"))
            _ip("link", "add", _SWITCH, "type", "bridge")
            try:
                _connect(host, process.pid)
                yield host
            finally:
                _ip("link", "delete", _SWITCH)
                subprocess.run(["ip", "link", "delete", _PORT], check=False, capture_output=True)
        finally:
            process.kill()


def _connect(host: Host, process: int) -> None:
    _ip("address", "add", f"{FIRST}/24", "dev", _SWITCH)
    _ip("link", "set", _SWITCH, "up")
    _ip("link", "add", _PORT, "type", "veth", "peer", "name", "eth0", "netns", str(process))
    _ip("link", "set", _PORT, "master", _SWITCH, "up")
    for words in (("address", "add", f"{SECOND}/24", "dev", "eth0"), ("link", "set", "lo", "up")):
        _ip(*words, inside=host.inside)
    _ip("link", "set", "eth0", "up", inside=host.inside)


def _ip(*words: str, inside: tuple[str, ...] = ()) -> None:
    subprocess.run([*inside, "ip", *words], check=True)


GENOMES = ("phiX174", "dengue1", "HIV1")
SMALL = {"sequences": {"chunk_length": 500, "shard_chunks": 4}}
ON_S3 = {**SMALL, "paths": {"results": f"s3://{BUCKET}/results"}}
# A lost node is noticed within seconds.
SOON = "SlurmdTimeout=12\nTCPTimeout=2\n"


@pytest.fixture
def second() -> Iterator[Host]:
    with second_host("second") as host:
        yield host


@pytest.fixture
def cluster(second: Host) -> Iterator[Cluster]:
    with running_cluster([Node("first", FIRST), Node(second.name, SECOND, second.inside)], SOON) as cluster:
        yield cluster


@pytest.fixture
def postgres(second: Host) -> Iterator[PostgresServer]:
    with postgres_server(FIRST) as server:
        yield server


@pytest.fixture
def s3(second: Host, tmp_path: Path) -> Iterator[S3Server]:
    with s3_server(tmp_path / "s3", FIRST) as server:
        yield server


@pytest.fixture
def servers(
    blank: Path, tmp_path: Path, cluster: Cluster, postgres: PostgresServer, s3: S3Server
) -> Iterator[Platform]:
    passed_on = {**postgres.environment, **s3.environment}
    described = yaml.safe_load(quick(DEPLOYED))
    described["storage"] = {"postgres": {"postgres_url": postgres.url("dagster")}}
    described["run_launcher"]["config"]["environment"] += list(passed_on)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**passed_on, "OMP_WAIT_POLICY": "passive"}.items():
            patch.setenv(name, value)
        project = framed_project(tmp_path / "project", blank, GENOMES, yaml.safe_dump(described), **ON_S3)
        with platform(project, **ON_S3) as servers:
            yield servers
            cluster.clear()
        project.instance.dispose()


def tables(project: Project) -> dict[str, Path]:
    """Finished tables by shard."""
    folder = project.workspace.layout.table(REFERENCE.domain, ASSET.path[-1], "any").parent
    return {path.stem: path for path in folder.glob("*.parquet")}


def undisturbed(root: Path, blank: Path) -> dict[str, bytes]:
    """Tables of one process that nobody disturbs, in a folder."""
    project = framed_project(root, blank, GENOMES, **SMALL)
    keys = project.keys(REFERENCE)
    assert failures(project.materialize(ASSET, partition=(keys[0], keys[-1]))) == []
    project.instance.dispose()
    return {shard: path.read_bytes() for shard, path in tables(project).items()}


def ended(servers: Platform, backfill_id: str) -> bool:
    known = servers.project.instance.get_backfill(backfill_id)
    assert known is not None
    return str(known.status.value) == "COMPLETED_SUCCESS"


def in_backfill(servers: Platform) -> list[dg.DagsterRun]:
    """Its runs but for retries."""
    runs = servers.project.instance.get_runs()
    return [run for run in runs if "dagster/backfill" in run.tags and run.parent_run_id is None]


def keys_of(run: dg.DagsterRun, keys: list[str]) -> set[str]:
    first, last = (run.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
    return set(keys[keys.index(first) : keys.index(last) + 1])


def retry_of(servers: Platform, run_id: str) -> list[str]:
    group = servers.project.instance.get_run_group(run_id)
    assert group is not None
    return [run.run_id for run in group[1] if run.run_id != run_id]


def node_of(servers: Platform, cluster: Cluster, run_id: str) -> str:
    """Node of a run's job, as soon as it has one; until then Slurm shows nothing, or that there is none."""
    job, nodes = job_of(servers, run_id), [""]

    def placed() -> bool:
        nodes.append(cluster.job(job).get("NodeList", ""))
        return nodes[-1] not in ("", "(null)")

    until(placed, f"a node for {run_id}", every=0.3)
    return nodes[-1]


def state(cluster: Cluster, node: str) -> str:
    """Without the mark of a node that does not answer."""
    return cluster.ask("sinfo", "--noheader", "--format=%T", "--partition=main", f"--nodes={node}").rstrip("*")


def lost_in_the_middle(servers: Platform, cluster: Cluster, second: Host, keys: list[str]) -> str:
    """Cut the second host off when its run has made some of its tables; returns the run."""
    until(lambda: len(in_backfill(servers)) == 2, "two runs")
    runs = {node_of(servers, cluster, run.run_id): run for run in in_backfill(servers)}
    assert runs.keys() == {"first", second.name}
    its_keys = keys_of(runs[second.name], keys)
    becomes(servers, runs[second.name].run_id, "STARTED")
    until(lambda: bool(its_keys & tables(servers.project).keys()), "some tables", every=0.05)
    second.cut_off()
    assert its_keys - tables(servers.project).keys(), "cut off too late"
    return runs[second.name].run_id


def test_a_host_that_is_cut_off_and_comes_back_costs_and_doubles_nothing(
    servers: Platform, cluster: Cluster, second: Host, blank: Path, tmp_path: Path
) -> None:
    instance, keys = servers.project.instance, servers.project.keys(REFERENCE)
    middle = keys[len(keys) // 2]
    wanted = servers.backfill([key for key in keys if key != middle])  # two ranges, thus two runs
    lost = lost_in_the_middle(servers, cluster, second, keys)
    before = {shard: state_of(path) for shard, path in tables(servers.project).items()}
    job = job_of(servers, lost)

    becomes(servers, lost, "FAILURE")
    assert state(cluster, second.name) == "down"
    assert f"Slurm job {job} is NODE_FAIL" in events_of(servers, lost)
    assert cluster.processes(job)  # nobody could end it
    until(lambda: bool(retry_of(servers, lost)), "a retry")
    (again,) = retry_of(servers, lost)
    # A retry has the tags of what it retries, until it has its own.
    until(lambda: job_of(servers, again) != job, "a job of its own")
    assert node_of(servers, cluster, again) == "first"
    becomes(servers, again, "STARTED")
    second.come_back()
    assert servers.succeeds(lost) == ["FAILURE", "SUCCESS"]
    until(lambda: not cluster.processes(job), "the end of what came back", every=0.5)
    assert servers.status(lost) == "FAILURE"
    until(lambda: ended(servers, wanted), "the backfill", every=0.5)

    cluster.ask("scontrol", "reconfigure")  # by itself Slurm asks it to come back after 20 pings
    until(lambda: state(cluster, second.name) == "idle", "the node that came back", every=0.5)
    last = launch(servers, [ASSET.path[-1]], [middle], **{SLURM_TAG: json.dumps({"constraint": second.name})})
    becomes(servers, last, "SUCCESS")
    assert node_of(servers, cluster, last) == second.name

    found = tables(servers.project)
    assert {shard: path.read_bytes() for shard, path in found.items()} == undisturbed(tmp_path / "undisturbed", blank)
    assert {shard: state_of(found[shard]) for shard in before} == before
    assert {shard: recorded(servers, shard) for shard in keys} == {
        shard: require_content(path) or content_digest(path) for shard, path in found.items()
    }
    assert instance.get_materialized_partitions(ASSET) == set(keys)
    until(lambda: not cluster.ask("squeue", "--noheader"), "the end of all jobs")
    assert {run.status.value for run in instance.get_runs() if run.run_id != lost} == {"SUCCESS"}
    assert [run.run_id for run in instance.get_runs() if run.parent_run_id] == [again]
    until(lambda: servers.taken_slots() == 0, "free slots of the pool")
    assert {state(cluster, node) for node in ("first", second.name)} == {"idle"}


def recorded(servers: Platform, shard: str) -> str:
    """Data version of what Dagster holds for a shard's latest table."""
    chosen = dg.AssetRecordsFilter(asset_key=ASSET, asset_partitions=[shard])
    (record,) = servers.project.instance.fetch_materializations(chosen, limit=1).records
    assert record.asset_materialization is not None
    return str((record.asset_materialization.tags or {})["dagster/data_version"])
