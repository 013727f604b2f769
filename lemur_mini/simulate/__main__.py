"""python -m lemur_mini.simulate: see `lemur_mini.simulate.drift`."""

import sys

from lemur_mini.command import in_one_line
from lemur_mini.simulate.drift import main

if __name__ == "__main__":
    sys.exit(in_one_line(main)())
