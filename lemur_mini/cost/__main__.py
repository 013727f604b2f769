"""python -m lemur_mini.cost: see `lemur_mini.cost.accounting`."""

import sys

from lemur_mini.command import in_one_line
from lemur_mini.cost.accounting import main

if __name__ == "__main__":
    sys.exit(in_one_line(main)())
