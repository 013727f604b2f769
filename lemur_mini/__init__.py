"""lemur_mini: LEMUR (arXiv 2511.10962), small and complete."""
