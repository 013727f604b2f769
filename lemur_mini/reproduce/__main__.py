"""python -m lemur_mini.reproduce ACTION: measure the claims and fill the tables.

run     train and test every variant that has no result yet
grown   what changes on larger platforms: their runs, and a figure of all sizes
log     what a reader of a log asks for: every model and opponent, several seeds
table   claims, curves and README from stored results
search  choose hyper-parameters on the validation days
trial   one more setting on the validation days, with its reason
readme  fill the generated parts of README.md, data/README.md and figures/
"""

from __future__ import annotations

import sys

from lemur_mini.command import in_one_line
from lemur_mini.reproduce import runs, search, tables, trials


def main() -> None:
    """Hand over to the action; `ACTION --help` tells its options."""
    actions = dict.fromkeys(("run", "table", "log", "grown"), runs.main)
    actions |= {"search": search.main, "readme": tables.main, "trial": trials.main}
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action not in actions:
        print(__doc__)
        sys.exit(0 if action in ("-h", "--help") else 2)
    if action in ("search", "readme", "trial"):
        del sys.argv[1]
    actions[action]()


if __name__ == "__main__":
    sys.exit(in_one_line(main)())
