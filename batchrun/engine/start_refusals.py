"""What an answer to a start request means when it started no Run: for the job, or for the whole batch."""

from batchrun.engine.work import Work
from batchrun.errors import (
    ApiError,
    BatchRefused,
    ForeignAnswer,
    NotFound,
    OutOfCredit,
    ServerFailed,
    TransportError,
    Unauthorized,
)
from batchrun.model import Job, Problem
from batchrun.policy.retry import Backoff

#: Start requests of one job in a row that may have no effect, before the job ends: with the last one answered by a
#: firewall or the like (a page with a status below 500), while other jobs' starts have an effect;
MAX_FOREIGN_STARTS = 3
#: with the last one not answered, or by a gateway's page (a status of 500 or above), while other jobs' starts have an
#: effect;
MAX_LOST_STARTS = 6
#: and if no other job's start has had an effect meanwhile: starts as such may be out of order.
MAX_LONE_STARTS = 10
#: Waits before the next start request of a job whose last one had no effect.
NO_EFFECT_BACKOFF = Backoff(first_s=0.5, max_s=10.0)
#: Refusals that depend on nothing in a job: every other job's start would be refused like it. Source: the API's list of
#: error types.
_BATCH_TYPES = frozenset(
    {
        "actor-can-not-be-rented",
        "actor-disabled",
        "actor-is-not-rented",
        "actor-not-found",
        "actor-not-public",
        "apify-plan-required-to-use-paid-actor",
        "background-check-required",
        "cannot-rent-paid-actor",
        "dataset-schema-invalid",
        "default-dataset-not-found",
        "elevated-permissions-needed",
        "full-permission-actor-blocked-for-admin",
        "full-permission-actor-not-approved",
        "insufficient-security-measures",
        "invalid-content-type-header",
        "invalid-header",
        "invalid-input-schema",
        "method-not-allowed",
        "migration-disabled",
        "missing-actor-rights",
        "no-payment-method-available",
        "not-implemented",
        "operation-not-allowed",
        "own-token-required",
        "pricing-model-not-supported",
        "public-actor-disabled",
        "rental-not-allowed",
        "store-schema-invalid",
        "store-terms-not-accepted",
        "unexpected-route",
        "unsupported-content-encoding",
        "unsupported-permission",
        "user-disabled",
        "user-email-not-verified",
        "user-is-removed",
        "user-not-found",
        "user-not-verified",
        "user-problem-with-card",
    }
)
#: Method not allowed, conflict: of the request's address and of the task, which all starts have in common.
_BATCH_STATUSES = frozenset({405, 409})
#: Refusals of a build: of the whole batch, unless a job's own `@options` name the build.
_BUILD_TYPES = frozenset(
    {"build-not-found", "build-outdated", "invalid-build", "tagged-build-required", "unknown-build-tag"}
)
#: Refusals of a charge limit: of the whole batch, unless a job's own `@options` set it.
_CHARGE_TYPES = frozenset({"max-total-charge-usd-below-minimum", "max-total-charge-usd-must-be-greater-than-zero"})
#: The first HTTP status of a failure that has nothing to do with what was asked for.
_FIRST_FAILURE = 500
#: The error type of jobs whose start requests have no effect.
START_BLOCKED = "start-blocked"


def refusal(error: ApiError, job: Job) -> Problem:
    """Return why the platform refuses this job.

    Raises:
        BatchRefused: the refusal concerns the whole batch.
    """
    own = job.options
    if error.type in _BUILD_TYPES:
        concerns_batch = own is None or own.build is None
    elif error.type in _CHARGE_TYPES:
        concerns_batch = own is None or own.max_total_charge_usd is None
    else:
        concerns_batch = (
            isinstance(error, Unauthorized | OutOfCredit | NotFound)
            or error.status in _BATCH_STATUSES
            or error.type in _BATCH_TYPES
        )
    if concerns_batch:
        raise BatchRefused(f"the platform refuses to start Runs: {error}", error) from error
    return Problem(type=error.type, message=error.message)


def starts_without_effect(work: Work) -> int:
    """Count the start requests of a job that had no effect, since its last Run in this round."""
    count = 0
    for attempt in reversed(work.this_round):
        if attempt.run_id is not None:
            break
        count += 1
    return count


def start_blocked(
    work: Work, error: TransportError | ServerFailed | None, *, have_others_started: bool
) -> Problem | None:
    """Return the problem that ends a job whose starts have no effect; None while it is to be tried again.

    Args:
        work: the job, its last start among its attempts.
        error: why that start has no answer; None if an earlier process sent it.
        have_others_started: whether other jobs' starts had an effect since this job's first one had none.
    """
    count = starts_without_effect(work)
    is_blocked = isinstance(error, ForeignAnswer) and error.status < _FIRST_FAILURE
    allowed = MAX_FOREIGN_STARTS if is_blocked else MAX_LOST_STARTS
    if count < (allowed if have_others_started else MAX_LONE_STARTS):
        return None
    last = f"; the last one: {error}" if error is not None else ""
    return Problem(
        type=START_BLOCKED,
        message=f"line {work.job.position.line}: {count} start requests in a row had no effect{last}."
        " Something between this machine and the API may refuse this job's input",
    )
