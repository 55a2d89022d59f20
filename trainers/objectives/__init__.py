"""Objectives: tensors in, loss out. No model, no batch, no loop; NaN where a number is unknown, and no sum hides it."""
