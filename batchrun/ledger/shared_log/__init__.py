"""The ledger's commits as a log in a store that other machines reach: another machine can take the batch over.

The owner of a batch appends each commit to the log before it commits it here (`owned_log`). Another machine replays the
log into its output directory (`replica`), and takes the batch over once the owner is silent (`claim`). An owner that
was overtaken finds the next number of the log taken: it is fenced, and no clocks are compared.
"""
