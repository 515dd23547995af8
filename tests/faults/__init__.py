"""Faults by their kinds: each test is a table of instances, to which a new one is a line."""
