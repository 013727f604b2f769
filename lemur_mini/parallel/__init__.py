"""The same model on several ranks, its work shared out: only here are they known."""
