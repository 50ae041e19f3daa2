"""The engine of one batch, built from its configuration and from the three phases of its opening."""

from datetime import timedelta

from batchrun.account.connected_task import ConnectedTask
from batchrun.batch.resume import Resumed
from batchrun.config import Config, OutputConfig
from batchrun.config.breaker_settings import breaker_limits
from batchrun.config.deadlines_settings import deadlines
from batchrun.config.groups_settings import group_limits, group_weights
from batchrun.config.output_expectation import expectation
from batchrun.config.retry_settings import retry_policy
from batchrun.engine.background.log_fetcher import LogFetcher
from batchrun.engine.build_engine import BatchLimits, Engine, build_engine
from batchrun.engine.collect import OutputPlan
from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.engine.work import Terms
from batchrun.output.kept_logs import KeptLogs
from batchrun.policy.breaker import Breaker
from batchrun.policy.token_bucket import TokenBucket
from batchrun.preflight.preparation import Preparation

#: Chunks of lines that are kept admitted where a shared log has each commit first: many slots take one chunk at once,
#: and the next one takes as long as the log.
CHUNKS_READY_WITH_LOG = 4


def build_batch_engine(
    config: Config,
    connected: ConnectedTask,
    resumed: Resumed,
    terms: Terms,
    priority: BatchPriority,
) -> Engine:
    """Build the engine that carries a batch out."""
    account, limits = connected.account, config.limits
    return build_engine(
        client=account.client,
        ledger=resumed.ledger,
        source=resumed.source,
        shared=account.shared,
        limits=BatchLimits(
            max_live_runs=limits.wanted_runs,
            memory_mb=limits.wanted_memory_mb,
            group_limits=group_limits(config.groups),
            group_weights=group_weights(config.groups),
            start_horizon_s=limits.start_horizon_s,
            listing_lag_s=limits.listing_lag_s,
            chunks_ready=1 if config.replica.url is None else CHUNKS_READY_WITH_LOG,
        ),
        bucket=TokenBucket.at_rate(limits.start_rate),
        terms=terms,
        output=output_plan(config.output),
        reservations=resumed.reservations,
        breaker=Breaker(breaker_limits(config.breaker)),
        task_id=connected.task.id,
        batch=config.out_dir,
        priority=priority,
        live_before=resumed.opening.live_before,
        doubts=resumed.doubts,
        log_fetcher=LogFetcher(account.client, KeptLogs(config.out_dir)) if config.output.logs else None,
        # The embedded server's first figures are final (see `open_platform`).
        costs_final_after=timedelta(0) if config.api.is_embedded else None,
    )


def batch_terms(config: Config, connected: ConnectedTask, prepared: Preparation) -> Terms:
    """Return the terms on which all jobs are carried out.

    Raises:
        ConfigError: the schema of expected items cannot be read, or is none.
    """
    bounds_mb = (config.limits.wanted_memory_mb, connected.account.info.limits.max_total_memory_mb)
    max_mb = min((mb for mb in bounds_mb if mb is not None), default=None)
    return Terms(
        options=prepared.options,
        retry=retry_policy(config.retry, max_mb),
        task_options=prepared.task_terms.options,
        max_memory_mb=max_mb,
        deadlines=deadlines(config.deadlines),
        expectation=expectation(config.output),
        no_starts=connected.task.gone,
        secrets=prepared.secrets,
    )


def output_plan(output: OutputConfig) -> OutputPlan:
    """Return what is collected from every Run."""
    lists = {name: getattr(output, name) for name in ("fields", "omit", "unwind", "flatten")}
    query = {name: ",".join(value) for name, value in lists.items() if value}
    if output.clean:
        query["clean"] = "true"
    return OutputPlan(
        items=output.items,
        max_inline_items=output.max_inline_items,
        page_size=output.page_size,
        is_value_wanted=output.value,
        query=query,
    )
