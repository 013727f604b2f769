"""python -m lemur_mini.world: write the platform's data set."""

import argparse
from pathlib import Path

from tqdm import tqdm

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.export import export

parser = argparse.ArgumentParser(description="Generate the embedded search platform.")
parser.add_argument("--out", type=Path, default=Path("data"))
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--times", type=int, default=1, help="users, documents and sessions of the shipped"
)
options = parser.parse_args()
world = WorldConfig().grown(options.times)
export(options.out, world, options.seed, progress=tqdm)
