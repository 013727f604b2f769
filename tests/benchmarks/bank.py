"""Reading and writing a bank of a million rows against the bare table operations."""

from __future__ import annotations

import torch

from lemur_mini.memory_bank import MemoryBank
from tests.benchmarks.common import CPU, medians, row, store

ROWS, WIDTH = 1_000_000, 128
READ = (256, 1000)  # histories of a batch of the gpu scale
WRITE = 256_000


def main(device: torch.device = CPU) -> None:
    """Interleaved reads and writes; a tenth of what is read is padding or a miss."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    bank = MemoryBank(ROWS, WIDTH)
    known = torch.randperm(ROWS, generator=draw)[: ROWS * 19 // 20]
    bank.write(known, torch.randn(len(known), WIDTH), 1)
    rows = torch.randint(ROWS, READ, generator=draw)
    rows[torch.rand(READ, generator=draw) < 0.05] = -1
    written = torch.randperm(ROWS, generator=draw)[:WRITE]
    bank, rows, written = bank.to(device), rows.to(device), written.to(device)
    index, fresh = rows.clamp(min=0).flatten(), torch.randn(WRITE, WIDTH, device=device)
    taken = medians(
        {
            "index_select": lambda: bank.vectors.index_select(0, index),
            "read": lambda: bank.read(rows),
            "index_copy": lambda: bank.vectors.index_copy_(0, written, fresh),
            "write": lambda: bank.write(written, fresh, 2),
        },
        device,
    )
    read = taken["index_select"] / taken["read"]
    write = taken["index_copy"] / taken["write"]
    store(
        "bank",
        [
            row("speed of a bank read, of index_select alone", read, ">= 0.7"),
            row("speed of a bank write, of index_copy_ alone", write, ">= 0.7"),
        ],
        {"seconds": taken, "bank": [ROWS, WIDTH], "read": READ, "written": WRITE},
        device,
    )


if __name__ == "__main__":
    main()
