"""Workers that carry out one list of batches together, in one account.

The list (`fleet_list`) and a page (`fleet_members`) are logs in a store that all workers reach. On the page stands
which worker carries out which batch, and which share of the account's limits each of them holds (`fleet_limits`).
`own_member` is one worker's end of the page; `takeover` says what it takes over. Each batch has a log of its own, as
`batchrun run` keeps one (`ledger/shared_log`).
"""
