"""Where a row to train on came from, and whether its tokens would still be those of its text. Reads, never writes."""
