"""Steps that fail because Dagster's database went away in their middle: their run is retried, as a killed one is.

The retries of dagster.yaml leave out runs whose step reports an error, which would fail again. A lost database is none
of these, and finished shards are kept.
"""

import dagster as dg

# Of Dagster's retries: a run with this tag is retried whatever failed.
RETRY_TAG = "dagster/retry_on_asset_or_op_failure"


@dg.failure_hook(name="retried_if_the_database_was_away")
def retried_if_database_was_away(context: dg.HookContext) -> None:
    """Mark the run of a step that failed for want of the database, which is there again when this is executed."""
    if database_was_away(context.op_exception):
        context.instance.add_run_tags(context.run_id, {RETRY_TAG: "true"})
        context.log.warning("Dagster's database was away, which is no fault of the step; the run is retried")


def database_was_away(error: BaseException | None) -> bool:
    """Whether an error follows from a connection to a database that broke or could not be made."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    while error is not None:
        if isinstance(error, OperationalError | InterfaceError):
            return True
        error = error.__cause__ or error.__context__
    return False
