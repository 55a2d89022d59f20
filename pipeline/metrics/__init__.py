"""Figures of data sets, models and pairs: arrays in, numbers out."""
