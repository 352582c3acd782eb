"""A real Kubernetes on one machine, from upstream Go modules, for Capstan's demo and tests.

Rendering (`render`, `components`) is pure; `build`, `network`, `processes`, `images` each own one kind of
effect; `cluster` puts them in order; `target` decides which cluster is used at all.
"""
