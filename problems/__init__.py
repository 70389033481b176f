"""The problem zoo: ready-made problems for `bilevel`."""
