"""The claims of the paper, measured: variants, runs, tables, curves, searches."""
