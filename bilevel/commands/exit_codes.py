"""What a command returns to the shell."""

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
