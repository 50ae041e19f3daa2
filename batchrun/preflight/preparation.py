"""The second phase of opening a batch: what is checked and settled before the first start."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import anyio

from batchrun.account.connect import patiently
from batchrun.account.connected_task import ConnectedTask
from batchrun.account.task import Task, read_task
from batchrun.account.task_watch import note_task
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import Denied
from batchrun.config import Config
from batchrun.errors import ApiError, ConfigError
from batchrun.ledger.facts import SECRETS
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import Command, RunOptions, TaskId
from batchrun.policy.secret_fields import InputSecrets, SecretFields
from batchrun.preflight.builds import Build, read_build
from batchrun.preflight.input_checks import HeadCheck, job_check
from batchrun.preflight.job_file_head import look_at_head
from batchrun.preflight.pinned_build import number_to_pin, pin, pinned_before
from batchrun.preflight.prices_and_budget import TaskTerms, read_terms, refuse_unbounded
from batchrun.preflight.same_batch import check_identity, check_limit
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is settled before the first start."""

    #: Options and prices of the task.
    task_terms: TaskTerms
    #: The batch's options of every Run, with the pinned build if there is one.
    options: RunOptions
    #: Memory of a Run, in megabytes; None: unknown.
    run_memory_mb: int | None
    #: Checks the inputs at the head of the job file; None: they are not checked.
    head: HeadCheck | None
    #: The parts of the task (input, options, Actor) that were edited since the batch was last opened.
    task_edits: tuple[str, ...]
    secrets: InputSecrets
    #: What the token may not read.
    denied: tuple[Denied, ...]


async def preflight(
    config: Config, connected: ConnectedTask, ledger: LedgerTables, command: Command | None
) -> Preparation:
    """Check the configuration against task, prices and ledger; note task, configuration and pinned build.

    Raises:
        ConfigError: the ledger holds another batch; a strict budget cannot be kept; the number of a build that is to be
            pinned is unknown.
        ConnectFailed: the platform does not answer.
    """
    client, info, task = connected.account.client, connected.account.info, connected.task
    terms = await patiently(client, read_terms(client, config, info, task))
    if not task.gone:
        await refuse_unbounded(config, terms, partial(look_at_head, config))
        _refuse_unread_task(config, task)
    await anyio.to_thread.run_sync(check_identity, ledger, config, task, info, command)
    await anyio.to_thread.run_sync(check_limit, ledger, config)
    edits = await anyio.to_thread.run_sync(note_task, ledger, task) if task.is_read else ()
    number = await anyio.to_thread.run_sync(pinned_before, ledger, config) if config.run.pin_build else None
    is_to_be_pinned = config.run.pin_build and number is None and not task.gone
    is_to_be_checked = config.jobs.check_inputs and ledger.is_empty
    build: Build | None = None
    secrets = await anyio.to_thread.run_sync(ledger.fact, SECRETS)
    # A schema with secret fields is read each time: its defaults may be secrets, and are noted nowhere.
    is_for_secrets = not task.gone and (secrets is None or secrets.paths != ())
    if is_to_be_pinned or is_to_be_checked or ledger.is_empty or is_for_secrets:
        build = await patiently(client, read_build(client, task, number or config.run.build))
        if build.schema is not None:
            secrets = build.schema.secrets.joined(secrets)
            await anyio.to_thread.run_sync(_note_secrets, ledger, secrets)
        if is_to_be_pinned:
            number = number_to_pin(build)
            await anyio.to_thread.run_sync(pin, ledger, config, number)
    options = config.run.as_options()
    return Preparation(
        task_terms=terms,
        options=options if number is None else replace(options, build=number),
        run_memory_mb=options.memory_mb
        or task.options.get("memoryMbytes")
        or (build.default_memory_mb if build is not None else None),
        head=HeadCheck(job_check(config, info, task, build)) if build is not None and is_to_be_checked else None,
        task_edits=edits,
        secrets=input_secrets(config, task, build, secrets),
        denied=(*info.denied, *_denied(task, terms, build)),
    )


def input_secrets(config: Config, task: Task, build: Build | None, fields: SecretFields | None) -> InputSecrets:
    """Return the secrets of Runs' inputs; of the task's stored input, the platform may show encrypted values only."""
    schema = build.schema if build is not None else None
    under = [task.input, config.task.input, *([schema.defaults, schema.prefills] if schema is not None else [])]
    return InputSecrets(fields or SecretFields(None), under)


async def read_input_secrets(
    client: ApifyClient, config: Config, task_id: TaskId, fields: SecretFields | None
) -> InputSecrets:
    """Return the secrets of the inputs of a batch that is not open, as far as the platform shows task and schema.

    Args:
        client: asks the platform.
        config: of the batch.
        task_id: of the batch.
        fields: those that its ledger notes; None: no schema has been read.
    """
    if fields is not None and fields.paths == ():
        return InputSecrets(fields)
    try:
        task = read_task(await client.get_task(task_id), task_id)
    except ApiError:
        task = Task(id=task_id, label=task_id, input={}, is_read=False)
    return input_secrets(config, task, await read_build(client, task, config.run.build), fields)


def _denied(task: Task, terms: TaskTerms, build: Build | None) -> Iterator[Denied]:
    """Yield what the token may not read; only the first of task, Actor and build, since each shows the next one."""
    if not task.is_read and not task.gone:
        yield Denied.TASK
    elif task.is_read and not terms.is_actor_read:
        yield Denied.ACTOR
    elif build is not None and build.is_denied:
        yield Denied.BUILDS


def _note_secrets(ledger: LedgerTables, secrets: SecretFields) -> None:
    with ledger.transaction():
        ledger.note_fact(SECRETS, secrets)


def _refuse_unread_task(config: Config, task: Task) -> None:
    if config.jobs.merge == "deep" and not task.is_read:
        raise ConfigError('"deep" needs the input of the task, which the token may not read', key="jobs.merge")
