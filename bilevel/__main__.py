"""`python -m bilevel`: the same as the `bilevel` command."""

import sys

from bilevel.cli import main

sys.exit(main())
