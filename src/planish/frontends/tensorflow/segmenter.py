"""Cuts a graph into segments that may become engines (plain data; no TensorFlow).

After TF-TRT's segmenter (tensorflow/compiler/tf2tensorrt/segment/segment.cc): nodes are visited
from the outputs to the inputs; a candidate is united with the candidates that read it, as long as
that makes no cycle through a node outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# operations that compute nothing: they join a segment but do not make it worth an engine
WEIGHTLESS = frozenset({"Identity", "Snapshot", "StopGradient"})
# operations that move no data: a segment of nothing else is not worth an engine
VIEWS = WEIGHTLESS | {"Reshape", "Squeeze", "ExpandDims"}


@dataclass(frozen=True)
class SegmentNode:
    """What the segmenter needs to know of a node.

    Attributes
    ----------
    name : str
    op : str
    inputs : tuple of str
        Names of the nodes whose results it reads, in order, constants included.
    control_inputs : tuple of str
        Names of nodes that must run before.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    control_inputs: tuple[str, ...] = ()


def find_segments(
    nodes: Sequence[SegmentNode],
    candidates: Iterable[str],
    minimum_size: int,
    max_segments: int | None = None,
) -> list[list[str]]:
    """Return the segments, each a list of node names in the order of `nodes`.

    Parameters
    ----------
    nodes : sequence of SegmentNode
        In topological order. ``Const`` nodes are no members of segments: every segment gets
        copies of those it reads, and counts them.
    candidates : iterable of str
        Names of nodes that an engine could compute.
    minimum_size : int
        Least number of effective nodes of a segment, as TF-TRT counts them: constants do,
        identities do not. -1 gives no segments.
    max_segments : int, optional
        Keep at most so many, the largest.

    Returns
    -------
    list of list of str
        In the order of their first nodes. Replacing each by one node makes no cycle.
    """
    if minimum_size == -1:
        return []
    by_name = {node.name: node for node in nodes}
    allowed = {name for name in candidates if by_name[name].op != "Const"}
    clusters = _Clusters(nodes)
    for node in reversed(nodes):
        if node.name in allowed:
            clusters.absorb_readers(node.name, allowed)
    found = clusters.groups(allowed)
    worth = [group for group in found if _effective_size(group, by_name) >= minimum_size]
    if max_segments is None or len(worth) <= max_segments:
        return worth
    by_size = sorted(worth, key=lambda group: -_effective_size(group, by_name))
    kept = {group[0] for group in by_size[:max_segments]}
    return [group for group in worth if group[0] in kept]


def _effective_size(group: Sequence[str], by_name: Mapping[str, SegmentNode]) -> int:
    if all(by_name[name].op in VIEWS for name in group):
        return 0
    members = sum(by_name[name].op not in WEIGHTLESS for name in group)
    read = {source for name in group for source in by_name[name].inputs}
    return members + sum(by_name[name].op == "Const" for name in read)


class _Clusters:
    """Sets of nodes, and the acyclic graph between them."""

    def __init__(self, nodes: Sequence[SegmentNode]) -> None:
        self._order = [node.name for node in nodes if node.op != "Const"]
        self._parent = {name: name for name in self._order}
        # the names in these lists are those of nodes; `_find` gives their clusters
        self._readers: dict[str, list[str]] = {name: [] for name in self._order}
        self._followers: dict[str, list[str]] = {name: [] for name in self._order}
        for node in nodes:
            if node.op == "Const":
                continue
            for source in dict.fromkeys(node.inputs):
                if source in self._readers:
                    self._readers[source].append(node.name)
            for source in dict.fromkeys((*node.inputs, *node.control_inputs)):
                if source in self._followers:
                    self._followers[source].append(node.name)

    def absorb_readers(self, name: str, allowed: set[str]) -> None:
        """Unite the node with every cluster of candidates that reads it, while no cycle arises."""
        readers = [reader for reader in self._readers[name] if reader in allowed]
        changed = True
        while changed:
            changed = False
            for reader in readers:
                source, target = self._find(name), self._find(reader)
                if source != target and not self._has_detour(source, target):
                    self._unite(target, source)
                    changed = True

    def groups(self, allowed: set[str]) -> list[list[str]]:
        """Return the clusters of candidates, each in the order of the nodes."""
        members: dict[str, list[str]] = {}
        for name in self._order:
            if name in allowed:
                members.setdefault(self._find(name), []).append(name)
        return list(members.values())

    def _find(self, name: str) -> str:
        root = name
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[name] != root:
            self._parent[name], name = root, self._parent[name]
        return root

    def _has_detour(self, source: str, target: str) -> bool:
        """Return whether a path leads from `source` through a third cluster to `target`."""
        seen = {source, target}
        stack = [found for found in self._next(source) if found not in seen]
        while stack:
            cluster = stack.pop()
            if cluster in seen:
                continue
            seen.add(cluster)
            for following in self._next(cluster):
                if following == target:
                    return True
                stack.append(following)
        return False

    def _next(self, cluster: str) -> list[str]:
        """Return the clusters that follow, once each; remembers the shortened list."""
        found = list(dict.fromkeys(map(self._find, self._followers[cluster])))
        self._followers[cluster] = [name for name in found if name != cluster]
        return self._followers[cluster]

    def _unite(self, kept: str, other: str) -> None:
        self._parent[other] = kept
        self._followers[kept] = [*self._followers[kept], *self._followers[other]]
