"""Loops over rows for which numpy needs many passes, compiled by numba where it is installed (extra `fast`).

The same answers as their twins in numpy, which stand beside the callers, but for the rounding of sums. numba is
imported with the first large array and no sooner. Knows no method, no table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

FEWEST_ROWS = 100_000
"""Fewer are done by numpy before numba is even imported."""


class Kernels(NamedTuple):
    """The loops, compiled; each is documented where it is written, below."""

    group_moments: Callable
    weighted_means: Callable
    scaled: Callable
    are_trees: Callable
    node_values: Callable
    value_steps: Callable
    mean_below: Callable
    index_nodes: Callable
    find_nodes: Callable
    decayed_sums: Callable


def kernels(rows: int) -> Kernels | None:
    """The loops for arrays of so many rows. None: numpy does it, as they are few or numba is not installed."""
    return _compiled() if rows >= FEWEST_ROWS else None


@cache
def _compiled() -> Kernels | None:
    try:
        from numba import njit
    except ImportError:
        return None

    def compiled(loop: Callable) -> Callable:
        try:
            return njit(cache=True, nogil=True)(loop)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return njit(nogil=True)(loop)

    return Kernels(
        group_moments=compiled(_group_moments),
        weighted_means=compiled(_weighted_means),
        scaled=compiled(_scaled),
        are_trees=compiled(_are_trees),
        node_values=compiled(_node_values),
        value_steps=compiled(_value_steps),
        mean_below=compiled(_mean_below),
        index_nodes=compiled(_index_nodes),
        find_nodes=compiled(_find_nodes),
        decayed_sums=compiled(_decayed_sums),
    )


def _group_moments(values, groups, count, ddof, zero):
    """Twin of `columns.moments`: size, mean, std, alike."""
    size, low, high = np.zeros(count, np.int64), np.full(count, np.inf), np.full(count, -np.inf)
    mean, std, alike = np.zeros(count), np.zeros(count), np.empty(count, np.bool_)
    for row in range(len(values)):
        value, group = values[row], groups[row]
        if group < 0 or group >= count:
            raise IndexError("a group that is not there")
        if value == value:
            size[group] += 1
            mean[group] += value
            low[group] = min(low[group], value)
            high[group] = max(high[group], value)
    for group in range(count):
        mean[group] = mean[group] / size[group] if size[group] else np.nan
        alike[group] = high[group] - low[group] <= zero
    for row in range(len(values)):
        value, group = values[row], groups[row]
        if value == value and not alike[group]:
            std[group] += (value - mean[group]) ** 2
    for group in range(count):
        std[group] = np.sqrt(std[group] / (size[group] - ddof)) if size[group] > ddof else np.nan
    return size, mean, std, alike


def _weighted_means(values, weights, groups, count):
    """Twin of `group._weighted_means`."""
    total, above = np.zeros(count), np.zeros(count)
    for row in range(len(values)):
        if values[row] == values[row]:
            total[groups[row]] += weights[row]
            above[groups[row]] += weights[row] * values[row]
    for group in range(count):
        above[group] = above[group] / total[group] if total[group] > 0 else np.nan
    return above


def _scaled(values, groups, base, factor, zero):
    """Twin of `columns.scaled`."""
    result = np.empty(len(values))
    for row in range(len(values)):
        result[row] = (values[row] - base[groups[row]]) * factor[groups[row]]
        if abs(result[row]) <= zero:
            result[row] = 0.0
    return result


def _are_trees(parent, depth, tree, reward, offsets):
    """Whether rows pass the checks of `columns.Trees`; which one they do not, and where, is for those to say."""
    count, highest = len(parent), -1
    for row in range(count):
        highest = max(highest, tree[row])
    rooted = np.zeros(highest + 1, np.bool_)
    for row in range(count):
        above = parent[row]
        if tree[row] < 0 or above < -1 or above >= row or offsets[row + 1] < offsets[row] or np.isinf(reward[row]):
            return False
        if above < 0:
            if depth[row] != 0 or rooted[tree[row]]:
                return False
            rooted[tree[row]] = True
        else:
            if depth[row] != depth[above] + 1 or tree[row] != tree[above] or reward[above] == reward[above]:
                return False
    return True


def _node_values(reward, parent):
    """Twin of `spo_tree.node_values`."""
    value = reward.copy()
    total, known = np.zeros(len(parent)), np.zeros(len(parent), np.int32)
    for row in range(len(parent) - 1, -1, -1):
        if known[row]:
            value[row] = total[row] / known[row]
        above = parent[row]
        if above >= 0 and value[row] == value[row]:
            total[above] += value[row]
            known[above] += 1
    return value


def _value_steps(value, parent, offsets, zero):
    """Twin of what `spo_tree.spo_tree` makes of values: advantage and mask."""
    advantage, mask = np.zeros(len(value)), np.zeros(len(value), np.bool_)
    for row in range(len(value)):
        if parent[row] >= 0:
            step = value[row] - value[parent[row]]
            if not abs(step) <= zero:
                advantage[row] = step
                mask[row] = step == step and offsets[row + 1] > offsets[row]
    return advantage, mask


def _mean_below(values, parent):
    """Twin of `group._mean_below`, from values that are NaN everywhere but at ends; 0 at roots."""
    total, count = np.zeros(len(values)), np.zeros(len(values), np.int64)
    result = np.zeros(len(values))
    for row in range(len(values) - 1, -1, -1):
        if values[row] == values[row]:
            total[row] += values[row]
            count[row] += 1
        above = parent[row]
        if above >= 0:
            result[row] = total[row] / count[row] if count[row] else np.nan
            total[above] += total[row]
            count[above] += count[row]
    return result


def _index_nodes(code, node, trees):
    """Twin of `tables._index`: bases, rows, and the first row that does not come after the one before it, or -1."""
    bases = np.zeros(trees + 1, np.int64)
    for row in range(len(code)):
        if row and code[row] == code[row - 1] and node[row] <= node[row - 1]:
            return bases, np.empty(0, np.int32), row
        bases[code[row] + 1] = node[row] + 1
    for tree in range(trees):
        bases[tree + 1] += bases[tree]
    rows = np.full(bases[trees], -1, np.int32)
    for row in range(len(code)):
        rows[bases[code[row]] + node[row]] = row
    return bases, rows, -1


def _find_nodes(code, node, bases, rows):
    """Twin of `tables.NodeRows.find`."""
    found = np.full(len(code), -1, np.int64)
    for at in range(len(code)):
        if code[at] >= 0 and node[at] >= 0 and node[at] < bases[code[at] + 1] - bases[code[at]]:
            found[at] = rows[bases[code[at]] + node[at]]
    return found


def _decayed_sums(values, decay, offsets):
    """Twin of `ragged.decayed_sums`."""
    result = np.empty(len(values))
    for row in range(len(offsets) - 1):
        later = 0.0
        for place in range(offsets[row + 1] - 1, offsets[row] - 1, -1):
            later = values[place] + decay[place] * later
            result[place] = later
    return result
