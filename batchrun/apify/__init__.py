"""Our side of the Apify API: its operations, the requests that carry them, its JSON."""
