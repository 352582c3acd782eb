"""The resources users write, as models: one file per kind, shared pieces, and their CRDs.

The models are the only definition of the API: the CRDs, the reference in docs/ and what the core plans from
come from them. Imports nothing of the project.
"""
