"""Tools that models call. Each has its own options and refuses others; `opened` makes it ready."""

from pipeline.tools import calculator, python_tool, search

TOOLS = {"calculator": calculator, "python": python_tool, "search": search}
