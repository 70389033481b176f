"""What a command returns to the shell."""

OK, FAILED, USAGE = 0, 1, 2
SIGNAL = 128
"""And the number of the signal that ended it, as shells have it."""
