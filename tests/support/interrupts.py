"""Comparisons that are broken off."""


def raise_at(number, error=KeyboardInterrupt):
    """A callback that raises at a record, counted over all trainings."""
    seen = []

    def callback(progress):
        seen.append(progress)
        if len(seen) == number:
            raise error

    return callback
