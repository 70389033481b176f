"""The sub-commands of `bilevel`, one file each; torch is imported inside of those that need it."""
