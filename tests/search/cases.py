"""The room has no public layers, optimizers, schedules or callbacks: its callback is the search's own."""

CASES = []
