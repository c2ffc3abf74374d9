"""A client for programs: connect, send microphone and camera, follow the conversation.

Knows the wire's events and nothing of how the server is built.
"""
