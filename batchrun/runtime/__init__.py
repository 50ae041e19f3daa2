"""What any long-running asyncio program needs."""
