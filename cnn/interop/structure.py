"""A graph of nodes as nested layers: lists, Residual and Concat where they fit, Graph where they do not."""

from dataclasses import dataclass

from cnn.layers import Concat, Graph, Layer, Residual


@dataclass(eq=False)
class Node:
    """One operation: a layer of one input, or "add", "concat", "mul"; ``inputs`` are nodes, None is x."""

    what: Layer | str
    inputs: list


def nest(output):
    """Return the list of layers that computes the Node ``output`` from x."""
    order = _order(output)
    if output is None:
        return []
    index = {node: k for k, node in enumerate(order)}
    readers = {node: [] for node in order}
    for node in order[1:]:
        for source in node.inputs:
            readers[source].append(node)
    return _between(None, output, index, readers)


def _order(output):
    """Return x (None) and the nodes that ``output`` needs, each after its inputs."""
    order, seen, stack = [None], {None}, [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(source, False) for source in node.inputs]
    return order


def _between(start, end, index, readers):
    """Return the layers from the value ``start`` to the value ``end``."""
    layers = []
    while start is not end:
        nodes = readers[start]
        if len(nodes) == 1 and isinstance(nodes[0].what, Layer):
            layers.append(nodes[0].what)
            start = nodes[0]
            continue
        join, region = _region(start, end, index)
        layers.append(_branches(start, join, region, index, readers))
        start = join
    return layers


def _region(start, end, index):
    """Return (the first node that all paths from ``start`` to ``end`` share, the nodes up to it)."""
    needed = _needed(end, start, index)
    for join in needed:  # in order: the first whose own needs are closed is the join
        region = _needed(join, start, index)
        later = [node for node in needed if index[node] > index[join]]
        inner = {start, *region} - {join}
        if not any(source in inner for node in later for source in node.inputs):
            covered = set(region)
            if all(node in covered for node in needed if index[node] < index[join]):
                return join, region
    return end, needed


def _needed(end, start, index):
    """Return the nodes that ``end`` needs, back to ``start``, in order."""
    found, stack = set(), [end]
    while stack:
        node = stack.pop()
        if node is start or node in found:
            continue
        found.add(node)
        stack += node.inputs
    return sorted(found, key=index.get)


def _branches(start, join, region, index, readers):
    """Return one layer for the nodes of a region that ends with ``join``."""
    fits = join.what == "concat" or (join.what == "add" and len(join.inputs) == 2)
    if fits:
        paths = [[] if source is start else _needed(source, start, index) for source in join.inputs]
        members = [node for path in paths for node in path]
        if len(set(members)) == len(members):
            inside = _Readers(readers, start, paths)
            lists = [_between(start, source, index, inside.of(k)) for k, source in enumerate(join.inputs)]
            if join.what == "concat":
                return Concat(lists)
            return Residual(*lists) if lists[0] else Residual(lists[1], lists[0])
    return _graph(start, region, readers)


def _graph(start, region, readers):
    """Return a Graph of the nodes of a region; layers that follow each other are one path."""
    inside = set(region)
    place, paths, inputs, joins = {start: 0}, [], [], []
    for node in region:
        (source, *more), layer = node.inputs, isinstance(node.what, Layer)
        alone = len([reader for reader in readers[source] if reader in inside]) == 1
        if layer and source is not start and alone and place[source] == len(paths):
            paths[-1].append(node.what)  # the value before it is read by nobody else
        else:
            paths.append([node.what] if layer else [])
            inputs.append(tuple(place[value] for value in (source, *more)))
            joins.append("" if layer else node.what)
        place[node] = len(paths)
    return Graph(paths, inputs, joins)


class _Readers:
    """Who reads each value, seen from one path of a fork."""

    def __init__(self, readers, start, paths):
        self._readers, self._start, self._paths = readers, start, paths

    def of(self, k):
        """Return the readers inside of path k."""
        path = set(self._paths[k])
        return {
            node: [reader for reader in self._readers[node] if reader in path]
            for node in (self._start, *self._paths[k])
        }
