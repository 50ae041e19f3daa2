"""What a worker takes in: a batch is checked, with its profile and its job file, before it is stored."""

from collections.abc import Callable, Mapping
from pathlib import Path

import anyio

from batchrun.config import Config
from batchrun.config.output_expectation import expectation
from batchrun.config.text_bounds import read_bounded
from batchrun.config.worker_config import WorkerConfig
from batchrun.errors import ConfigError
from batchrun.jobs.matrix import check_matrix
from batchrun.output.atomic_write import replace_file
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.submission import FILES, Submission
from batchrun.worker.submission_config import config_of, profile_file

#: Max submissions that are checked at once: a batch file of the largest size takes 150 MB for seconds.
MAX_CHECKS = 2
#: Max characters of a file's name in a message.
_MAX_NAME_CHARS = 500


class Intake:
    """Checks submissions.

    Args:
        directory: of the worker.
        environ: holds the token.
        config: returns the worker's configuration.
        fleet: that the worker belongs to; None: it works alone.
    """

    def __init__(
        self,
        directory: DataDirectory,
        environ: Mapping[str, str],
        config: Callable[[], WorkerConfig],
        fleet: Fleet | None,
    ) -> None:
        self._directory = directory
        self._environ = environ
        self._config = config
        self._fleet = fleet
        self._checks = anyio.CapacityLimiter(MAX_CHECKS)

    async def check(self, submission: Submission) -> Config:
        """Check the files of a batch, and return its configuration.

        No lock should be held meanwhile, since others made the files.

        Raises:
            ConfigError: its configuration or its item schema is invalid, or its job file is missing.
        """
        return await anyio.to_thread.run_sync(self._check, submission, limiter=self._checks)

    def with_own_file(self, submission: Submission) -> Submission:
        """Copy the profile of a submission to its directory, and check it once more as its own file. Blocks.

        Raises:
            ConfigError: the profile names a file that only this machine has.
        """
        assert submission.profile is not None, "only a profile is copied"
        text = read_bounded(profile_file(self._directory, submission.profile))
        replace_file(self._directory.of(submission.id) / FILES["config"], [text])
        changed = submission.but(profile=None, batch_file=FILES["config"])
        self._check(changed)
        return changed

    def _check(self, submission: Submission) -> Config:
        config = self._config_of(submission)
        if self._fleet is not None:
            config = self._fleet.with_log(config, submission.id)
        elif submission.shards is not None:
            raise ConfigError(
                "divides a batch among the workers of a fleet, and this worker is alone: it uses the whole account for"
                " one batch as well. Leave it out, or start the workers with --fleet",
                key="shards",
            )
        expectation(config.output)
        check_matrix(config.jobs.matrix)
        try:
            is_file = config.jobs.file.is_file()
        except OSError:  # its name is too long
            is_file = False
        if not is_file:
            raise ConfigError(self._no_job_file(config.jobs.file, submission), key="jobs.file")
        return config

    def _no_job_file(self, file: Path, submission: Submission) -> str:
        own = self._directory.of(submission.id)
        if submission.spooled is None and file.is_relative_to(own):  # as its batch file names it
            name = str(file.relative_to(own))[:_MAX_NAME_CHARS]
            return f"{name} was not sent; send it as the form field jobs, as `batchrun worker submit` does"
        return f"{file} is not a file; submit the job file, too"

    async def budget_of(self, submission: Submission) -> float | None:
        """Return the budget that a batch's configuration gives it, in US dollars; None: unlimited.

        Raises:
            ConfigError: the configuration is invalid.
        """
        config = await anyio.to_thread.run_sync(self._config_of, submission, limiter=self._checks)
        return config.limits.budget_usd

    def _config_of(self, submission: Submission) -> Config:
        return config_of(submission, self._directory, self._config(), self._environ)
