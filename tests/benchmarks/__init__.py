"""What LEMUR costs, as ratios measured in one run: python -m tests.benchmarks.

Scripts, not tests: pytest collects none of them, and nothing fails for being slow."""
