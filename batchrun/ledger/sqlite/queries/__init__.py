"""What readers ask of a ledger, for report, status, costs and failures: one module per question."""
