"""What a start waits for: permits, the account's capacity, rates and money."""
