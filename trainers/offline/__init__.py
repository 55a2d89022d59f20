"""Offline methods side by side: what each learns from one round, and how its policy then answers."""
