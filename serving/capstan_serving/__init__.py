"""The Capstan model server: the Open Inference Protocol over HTTP and gRPC.

A request's way (protocols, validation, queue, batching) is native code, in `_native`. This package decides
what is served and executes the batches: it finds and loads models, answers the routes that are not hot,
reports metrics, and holds the command line. It imports nothing of the operator or the agent.
"""

from importlib.metadata import version

__version__ = version("capstan-serving")
