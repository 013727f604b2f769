"""A trained model at work: the ranker, its page, files for other engines."""
