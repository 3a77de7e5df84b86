"""The queries that Dagster's pages send, put to a real webserver over HTTP and timed."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

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
LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message } } }"""
REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"


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


def answers(url: str) -> bool:
    """Whether the webserver of this URL knows the definitions."""
    try:
        return "nodes" in ask(url, REPOSITORIES)["repositoriesOrError"]
    except (urllib.error.URLError, ConnectionError):
        return False


def launch(url: str, job: str) -> str:
    """Launch a job as the page does; returns the id of its run.

    Raises:
        SystemExit: it was not launched.
    """
    (repository,) = ask(url, REPOSITORIES)["repositoriesOrError"]["nodes"]
    selector = {"repositoryName": repository["name"], "repositoryLocationName": repository["location"]["name"]}
    told = ask(url, LAUNCH, params={"selector": {**selector, "jobName": job}})["launchRun"]
    if told["__typename"] != "LaunchRunSuccess":
        raise SystemExit(f"{job} was not launched: {told}")
    return str(told["run"]["id"])


def time_pages(url: str, assets: Sequence[Sequence[str]], shown: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each page's query, round by round, after a first one that does not count.

    Args:
        url: of the webserver.
        assets: keys of all assets on the graph.
        shown: key of the asset whose partitions page is asked for.
        rounds: how often.
    """
    keys = [{"path": list(path)} for path in assets]
    given: dict[str, dict[str, Any]] = {
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
