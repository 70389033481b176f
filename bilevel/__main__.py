"""`python -m bilevel`: the same as the `bilevel` command."""

import sys

from bilevel.commands.main import main

sys.exit(main())
