"""Capstan's demo: one story, from `kubectl apply` to an answered query, on a real Kubernetes."""
