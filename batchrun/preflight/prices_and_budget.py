"""What Runs of a task are charged for, and whether a budget can be kept."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from batchrun.account.task import Task
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import AccountInfo, parse_options, parse_prices
from batchrun.config import Config
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.errors import ApiError, ConfigError, SeveralLines
from batchrun.ledger.protocol import Money
from batchrun.model import Job, JsonObject, RunOptions
from batchrun.policy.budget import Budget, ExcessCosts
from batchrun.policy.run_cost import CostBound, ObservedCosts, Prices, most_a_run_may_cost
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.long_reads import read_in_thread
from batchrun.words.number_words import money as money_words

#: Max recent Runs of the task whose costs are read for a budget, in one request.
PAST_RUNS = 200
_NO_PRICE = """\
the account reports no price of a compute unit, as before its first usage of a month. Write the price of your plan \
(Apify Console, Billing) under [limits], like
    compute_unit_usd = 0.3
Without it, nothing bounds the cost of a Run: budget_mode = "best_effort" starts Runs all the same, and the batch may \
exceed its budget by all that its live Runs still use. Nothing was started"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTerms:
    """Options and prices of Runs, before the options of batch and job."""

    #: The task's own options over its Actor's.
    options: RunOptions
    prices: Prices
    is_actor_read: bool
    #: Costs of the task's recent Runs, in US dollars; empty without a budget.
    past_costs_usd: Sequence[float] = ()


async def read_terms(client: ApifyClient, config: Config, account: AccountInfo, task: Task) -> TaskTerms:
    """Read the options and prices of the task's Runs.

    Raises:
        ConfigError: the budget cannot be kept.
    """
    actor = await _actor(client, task)
    is_strict = config.limits.budget_usd is not None and config.limits.budget_mode == "strict"
    if not actor and is_strict and not task.gone:
        raise ConfigError(
            "the token may not read the task's Actor, so its prices are unknown; set"
            ' limits.budget_mode = "best_effort" to start Runs without them. Nothing was started',
            key="limits.budget_usd",
        )
    options = parse_options(task.options).over(parse_options(actor.get("defaultRunOptions")))
    own_usd = config.limits.compute_unit_usd
    is_asked = config.limits.budget_usd is not None and own_usd is None
    try:
        usage = await client.get_monthly_usage() if is_asked else {}
    except ApiError:
        usage = {}  # the token may run tasks but not read usage
    is_own = actor.get("username") == account.username
    prices = parse_prices(actor, usage, client.clock.now.middle, is_own=is_own)
    prices = prices if own_usd is None else replace(prices, compute_unit_usd=own_usd)
    if config.limits.budget_usd is not None:
        _check_cap(prices, config.run.as_options().over(options))
    past_costs_usd = await _past_costs(client, task) if config.limits.budget_usd is not None else ()
    return TaskTerms(options=options, prices=prices, is_actor_read=bool(actor), past_costs_usd=past_costs_usd)


async def _past_costs(client: ApifyClient, task: Task) -> Sequence[float]:
    """Return the costs of the task's recent Runs; none if they may not be listed."""
    if not task.exists or task.gone:
        return ()
    try:
        page = await client.list_task_runs(task.id, limit=PAST_RUNS)
    except ApiError:
        return ()
    return [run.cost_usd for run in page.runs.values() if run.status.is_terminal and run.cost_usd is not None]


async def _actor(client: ApifyClient, task: Task) -> JsonObject:
    """Read a task's Actor; {} if the token may run the task but not read the Actor, or not even the task."""
    try:
        return await client.get_actor(task.actor_id) if task.actor_id else {}
    except ApiError:
        return {}


async def refuse_unbounded(
    config: Config, terms: TaskTerms, look_at_head: Callable[[Callable[[Job], None]], bool]
) -> None:
    """Check that a strict budget can be kept: the options of batch, task or line bound the cost of each Run.

    Args:
        config: of the batch.
        terms: of the task.
        look_at_head: calls its argument with each job at the head of the job file; returns False if the file cannot
            be read twice.

    Raises:
        ConfigError: the cost of a Run is not bounded; the message names the option that would bound it.
    """
    if config.limits.budget_usd is None or config.limits.budget_mode != "strict":
        return
    options = config.run.as_options().over(terms.options)
    bound = most_a_run_may_cost(terms.prices, options)
    if bound.usd is not None:
        return
    unbounded: list[tuple[int, CostBound]] = []

    def look(job: Job) -> None:
        own = most_a_run_may_cost(terms.prices, (job.options or RunOptions()).over(options))
        if own.usd is None and not unbounded:
            unbounded.append((job.position.line, own))

    is_seen = await read_in_thread(look_at_head, look)
    if is_seen and not unbounded:
        return
    where = f" of line {unbounded[0][0]}" if unbounded else ""
    reason = unbounded[0][1].reason if unbounded else bound.reason
    if reason == "limits.compute_unit_usd":
        raise ConfigError(SeveralLines(_NO_PRICE.splitlines()), key="limits.budget_usd")
    raise ConfigError(
        f"nothing bounds what the Run{where} may cost: set {reason}, for all or in each line's @options, or"
        ' limits.budget_mode = "best_effort". Nothing was started',
        key="limits.budget_usd",
    )


def _check_cap(prices: Prices, options: RunOptions) -> None:
    cap, least = options.max_total_charge_usd, prices.least_cap_usd
    if prices.model == "PAY_PER_EVENT" and cap is not None and least is not None and cap < least:
        raise ConfigError(f"the Actor takes no cap below {money_words(least)}", key="run.max_total_charge_usd")


def open_reservations(config: Config, terms: TaskTerms, money: Money, shared: Budget) -> CostReservations:
    """Return the batch's money, less what its earlier processes have spent and reserved."""
    limits, past = config.limits, terms.past_costs_usd
    bound = most_a_run_may_cost(terms.prices, config.run.as_options().over(terms.options))
    observed = ObservedCosts()
    for cost_usd in past:
        observed.note(cost_usd)
    return CostReservations(
        Budget(
            limits.budget_usd,
            spent_usd=money.spent_usd,
            reserved_usd=money.reserved_usd,
            shared=shared,
        ),
        terms.prices,
        task_options=terms.options,
        is_strict=limits.budget_mode == "strict",
        excess=ExcessCosts(
            known=max(money.known_costs, len(past)),
            most_usd=max([money.most_excess_usd, *(cost_usd - (bound.usd or 0.0) for cost_usd in past)]),
            open_runs=money.open_runs,
        ),
        observed=observed,
        is_priced=limits.budget_usd is not None or shared.share_usd is not None,
    )
