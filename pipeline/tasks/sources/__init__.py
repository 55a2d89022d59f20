"""Where tasks come from. A source reads one band of a suite; each has its own options and refuses others."""

from pipeline.tasks.sources import file, gym

SOURCES = {"reasoning_gym": gym, "file": file}
