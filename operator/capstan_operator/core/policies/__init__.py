"""Decisions, one file each: ordered chains of pure functions that answer with a reason and a sentence."""
