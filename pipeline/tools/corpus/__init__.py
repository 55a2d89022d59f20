"""Passages to search: read from a file, or of a world that is made from a seed."""
