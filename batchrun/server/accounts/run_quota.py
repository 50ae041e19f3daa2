"""How much memory and how many Runs an account may use, and uses. Pure."""

from batchrun.server.error_answers import ErrorAnswer


class RunQuota:
    def __init__(self, max_total_memory_mb: int, max_concurrent_runs: int) -> None:
        self.max_total_memory_mb, self.max_concurrent_runs = max_total_memory_mb, max_concurrent_runs
        self.memory_mb = self.runs = 0

    def take(self, memory_mb: int) -> None:
        """Reserve a Run's memory and its place, or nothing if a limit would be exceeded."""
        if self.memory_mb + memory_mb > self.max_total_memory_mb:
            raise ErrorAnswer(
                402,
                "actor-memory-limit-exceeded",
                f"By launching this job you will exceed the memory limit of {self.max_total_memory_mb}MB for all your "
                f"Actor runs and builds (currently used: {self.memory_mb}MB, requested: {memory_mb}MB)",
            )
        if self.runs + 1 > self.max_concurrent_runs:
            raise ErrorAnswer(
                402,
                "concurrent-runs-limit-exceeded",
                f"By launching this job you will exceed your limit of {self.max_concurrent_runs} concurrent Actor runs",
            )
        self.take_over(memory_mb)

    def take_over(self, memory_mb: int) -> None:
        """Count a Run without a check: a limit that is smaller now does not end Runs of a previous process."""
        self.runs += 1
        self.memory_mb += memory_mb

    def give_back(self, memory_mb: int) -> None:
        self.runs -= 1
        self.memory_mb -= memory_mb
