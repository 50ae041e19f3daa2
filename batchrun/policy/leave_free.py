"""How much of an account's reported limit is ours, by what others use of it and by what is to be left free."""


class Allowance:
    """The part of an account's limit that we may use, in Runs or in megabytes.

    The platform's counters lag: a Run of ours that has just ended still counts there, and looks like a Run of others.
    So higher use by others is believed once two readings in a row show it, and then the smaller one. Lower use is
    believed at once: an allowance that is too high costs one refused start.

    `leave_free` is left to others beyond what they use; `least` is ours in any case.
    """

    def __init__(self, *, leave_free: int, least: int) -> None:
        self._leave_free = leave_free
        self._least = least
        self._others: int | None = None

    def update(self, limit: int, used: int, own: int) -> int:
        """Take in one reading of the account; return our allowance.

        `own` is the most that we used ourselves between the request of the reading and its answer.
        """
        others = max(0, used - own)
        believed = others if self._others is None else min(others, self._others)
        self._others = others
        return max(self._least, limit - believed - self._leave_free)
