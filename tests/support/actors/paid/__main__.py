"""An Actor that is paid per event, and waits to be charged for."""

import time

time.sleep(1000)
