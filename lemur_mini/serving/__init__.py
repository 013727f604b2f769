"""A trained model at work: ranker, artefact, server, files for other engines."""
