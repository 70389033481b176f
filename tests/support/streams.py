"""Standard streams that nobody reads."""

import io
import sys
import types


class Closed(io.StringIO):
    """The end of a pipe that nobody reads, or a full disk."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    flush = write


def deaf(monkeypatch, error, *names):
    for name in names:
        stream = Closed(error)
        stream.flush = types.MethodType(lambda self: self.write(""), stream)
        monkeypatch.setattr(sys, name, stream)
