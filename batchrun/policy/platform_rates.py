"""The rates that the platform allows, as its API documents them. It may announce lower ones."""

from typing import Final

#: Starts of one task per second: 95 % of 400.
STARTS_PER_TASK_PER_S: Final = 380.0
#: Requests of an account per second: 95 % of 250,000 per minute.
REQUESTS_PER_S: Final = 3958.0
#: Requests per second for a list, and for one Run or one dataset; 95 % of it are used.
LISTING_LIMIT_PER_S: Final = 60
