"""What the reader can mend: every command says it in one line and exits with 2."""


class Mendable(Exception):
    """An error whose message is one line: what is wrong, where, and what to do."""
