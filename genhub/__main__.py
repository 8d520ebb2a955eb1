"""`python -m genhub`. Python has put the current folder before all that is installed; a command must not import from
there."""

import sys
from pathlib import Path

if sys.path[:1] == [str(Path.cwd())] and not sys.flags.safe_path:
    del sys.path[0]

from genhub.cli import main

main()
