"""Models that hold conversations, and the protocol they follow. Knows nothing about sessions, asyncio or sockets."""
