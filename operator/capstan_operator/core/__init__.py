"""What a resource should become, and nothing else: pure functions from objects to objects.

Imports neither kopf, nor a client, nor asyncio, and reads no clock: the time comes in as an argument.
"""
