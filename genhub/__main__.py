"""`genhub` and `python -m genhub`. Python has put the current folder before all that is installed: nothing may be imported
from there."""

import os
import sys

if __name__ == "__main__" and sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path:  # noqa: PTH109  # os is there already, pathlib may not be
    del sys.path[0]


def main() -> None:
    from genhub.ground.garbage import look_for_garbage_no_more, look_for_garbage_seldom

    look_for_garbage_seldom()  # before anything is imported
    from genhub.cli import main as run

    try:
        run()
    finally:
        look_for_garbage_no_more()


if __name__ == "__main__":
    main()
