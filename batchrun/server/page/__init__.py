"""The page at the server's address. It uses the API as any client does; nothing of the API needs it."""
