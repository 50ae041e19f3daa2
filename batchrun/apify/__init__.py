"""Our side of the Apify API's wire."""
