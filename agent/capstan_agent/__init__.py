"""What runs beside users' containers: it puts a model into a pod and supervises a training process.

Standard library only, and it imports neither the operator nor serving: `install` copies this package, with
an interpreter of its own, into pods whose images hold nothing it could rely on.
"""
