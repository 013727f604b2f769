"""A small search platform whose truth is known. It knows nothing of models."""

from lemur_mini.world.platform import BROAD, Platform, Query

__all__ = ["BROAD", "Platform", "Query"]
