"""The queries that Dagster's pages send, put to a real webserver over HTTP and timed."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

_LOOKS = 30  # a second apart
# As the pages of Dagster 1.13 ask for them, without what they ask beside (icons, permissions).
QUERIES = {
    "partitions_page": """query PartitionHealthQuery($assetKey: AssetKeyInput!) {
      assetNodeOrError(assetKey: $assetKey) { ... on AssetNode { id
        partitionKeysByDimension { name type partitionKeys }
        assetPartitionStatuses { ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions } } } } }""",
    "asset_graph": """query AssetGraphLiveQuery($assetKeys: [AssetKeyInput!]!) {
      assetNodes(assetKeys: $assetKeys, loadMaterializations: true) { id opNames assetKey { path }
        assetMaterializations(limit: 1) { timestamp runId }
        partitionStats { numMaterialized numMaterializing numPartitions numFailed }
        assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } }
      assetsLatestInfo(assetKeys: $assetKeys) { id assetKey { path } unstartedRunIds inProgressRunIds
        latestRun { id status endTime } } }""",
    "stale_marks": """query AssetStaleStatusDataQuery($assetKeys: [AssetKeyInput!]!) {
      assetNodes(assetKeys: $assetKeys) { id assetKey { path } staleStatus
        staleCauses { category reason key { path } } } }""",
    "runs_page": """query RunsFeedRootQuery {
      runsFeedOrError(limit: 30, view: ROOTS) { ... on RunsFeedConnection { cursor hasMore results { id runStatus
        creationTime startTime endTime tags { key value } jobName assetSelection { path }
        ... on PartitionBackfill { numPartitions partitionNames isAssetBackfill }
        ... on Run { assetChecks { name } stepKeysToExecute } } } } }""",
}
LAUNCH = """mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename
    ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query Backfill($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status error { message } } } }"""
AUTOMATION = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  sensors { name sensorState { id status } } schedules { name scheduleState { id status } } } } } }"""
STOP_SENSOR = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"
STOP_SCHEDULE = "mutation Stop($id: String!) { stopRunningSchedule(id: $id) { __typename } }"


def ask(url: str, query: str, **variables: Any) -> dict[str, Any]:  # noqa: ANN401
    """Data of a GraphQL query.

    Raises:
        SystemExit: the server found an error in it, or while answering.
    """
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            told = json.load(answer)
    except urllib.error.HTTPError as error:  # what the server says of a query that it refuses
        told = json.load(error)
    if "errors" in told:
        raise SystemExit(f"{query}: {json.dumps(told['errors'])[:2000]}")
    data: dict[str, Any] = told["data"]
    return data


def stop_automation(url: str) -> None:
    """Turn every sensor and schedule off that is on, so that nothing is launched beside what is measured.

    Looked at again for a while until all are off: one was seen to be on once more after it was stopped.

    Raises:
        SystemExit: one stays on.
    """
    for _ in range(_LOOKS):
        (repository,) = ask(url, AUTOMATION)["repositoriesOrError"]["nodes"]
        sensors = [sensor["sensorState"] for sensor in repository["sensors"]]
        schedules = [schedule["scheduleState"] for schedule in repository["schedules"]]
        running = [(state, STOP_SENSOR) for state in sensors] + [(state, STOP_SCHEDULE) for state in schedules]
        running = [(state, stop) for state, stop in running if state["status"] == "RUNNING"]
        if not running:
            return
        for state, stop in running:
            ask(url, stop, id=state["id"])
        time.sleep(1)
    raise SystemExit(f"still on: {running}")


def time_pages(url: str, assets: Sequence[Sequence[str]], shown: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each page's query, round by round, after a first one that does not count.

    Args:
        url: of the webserver.
        assets: keys of all assets on the graph.
        shown: key of the asset whose partitions page is asked for.
        rounds: how often.
    """
    keys = [{"path": list(path)} for path in assets]
    given = {
        "partitions_page": {"assetKey": {"path": list(shown)}},
        "asset_graph": {"assetKeys": keys},
        "stale_marks": {"assetKeys": keys},
        "runs_page": {},
    }
    seconds: dict[str, list[float]] = {page: [] for page in QUERIES}
    for number in range(rounds + 1):
        for page, query in QUERIES.items():
            started = time.perf_counter()
            ask(url, query, **given[page])
            if number:
                seconds[page].append(time.perf_counter() - started)
    return seconds
