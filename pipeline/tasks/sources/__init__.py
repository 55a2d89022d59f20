"""Where tasks come from. A source reads one band of a suite; each has its own options and refuses others."""

from pipeline.tasks.sources import file, gym, imported, multi_hop, seeds

SOURCES = {"reasoning_gym": gym, "file": file, "imported": imported, "seeds": seeds, "multi_hop": multi_hop}
