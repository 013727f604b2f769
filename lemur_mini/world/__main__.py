"""python -m lemur_mini.world: write the platform's data set."""

import argparse
from pathlib import Path

from tqdm import tqdm

from lemur_mini.world.export import export

parser = argparse.ArgumentParser(description="Generate the embedded search platform.")
parser.add_argument("--out", type=Path, default=Path("data"))
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
export(options.out, seed=options.seed, progress=tqdm)
