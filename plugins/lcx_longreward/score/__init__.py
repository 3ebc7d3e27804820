"""The score step: which answers are judged, what comes of it, and pairs."""
