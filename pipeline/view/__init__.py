"""The trajectory viewer: trees of the store as one self-contained HTML page."""
