"""The thin shell around the core: everything with an effect, in five verbs.

Gather what the plan needs, call the pure plan, apply it, write the status once if it changed, emit
events. Nothing in here decides what a resource should become; nothing in core/ knows that this exists.
"""
