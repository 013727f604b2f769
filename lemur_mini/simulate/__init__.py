"""The platform goes on after its log: an online test, a daily stream, drift."""
