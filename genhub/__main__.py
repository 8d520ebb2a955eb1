"""`python -m genhub`. Python has put the current folder before all that is installed: nothing may be imported from there."""

import os
import sys

if sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path:  # noqa: PTH109  # os is there already, pathlib may not be
    del sys.path[0]

from genhub.cli import main

main()
