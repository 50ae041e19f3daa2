"""What the platform does wrong while a batch is killed and run again."""

LOST_ANSWERS = """
[[fault]]
kind = "drop_answer"
routes = ["starts"]
probability = 0.05
[[fault]]
kind = "error_after"
routes = ["starts"]
status = 502
probability = 0.05
"""

#: The set under which the processes of the batch may allocate little memory, and items are large.
LITTLE_MEMORY = "little memory"

FAULT_SETS = {
    "lost answers": LOST_ANSWERS,
    "rate limits half of the time": LOST_ANSWERS
    + """
[[fault]]
kind = "rate_limit"
routes = ["starts"]
probability = 0.5
""",
    "lists that lag 3 s": LOST_ANSWERS + '[[fault]]\nkind = "list_lag"\nseconds = 3.0\n',
    "fresh Runs unknown for 3 s": LOST_ANSWERS + '[[fault]]\nkind = "fresh_404"\nseconds = 3.0\n',
    "an account that is full": LOST_ANSWERS
    + """
[[fault]]
kind = "capacity"
type = "actor-memory-limit-exceeded"
status = 402
probability = 0.1
[[fault]]
kind = "capacity"
type = "concurrent-runs-limit-exceeded"
status = 400
probability = 0.1
""",
    "a Date that is an hour ahead": LOST_ANSWERS + '[[fault]]\nkind = "skewed_date"\nseconds = 3600.0\n',
    "pages of a firewall": LOST_ANSWERS
    + """
[[fault]]
kind = "error_before"
status = 403
type = ""
probability = 0.01
[[fault]]
kind = "error_after"
status = 401
type = ""
probability = 0.05
[[fault]]
kind = "garbage"
probability = 0.05
""",
    "gone datasets": LOST_ANSWERS
    + """
[[fault]]
kind = "error_before"
routes = ["items"]
status = 404
type = "record-not-found"
sticky = true
probability = 0.2
""",
    LITTLE_MEMORY: LOST_ANSWERS,
    "a bad network": LOST_ANSWERS
    + """
[[fault]]
kind = "reset_before"
probability = 0.05
[[fault]]
kind = "error_before"
status = 503
probability = 0.05
[[fault]]
kind = "truncate"
probability = 0.05
[[fault]]
kind = "garbage"
probability = 0.05
[[fault]]
kind = "latency"
distribution = "pareto"
seconds = 0.005
max_seconds = 1.0
probability = 0.5
""",
}
