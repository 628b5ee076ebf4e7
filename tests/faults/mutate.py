"""Changes a tree of JSON or TOML values at random places, and texts and bytes as well."""

import copy
import math

#: Values that programs trip over, of every type that JSON and TOML know.
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31,
    2**63,
    10**9,
    10**30,
    -(10**30),
    0.0,
    -0.0,
    0.5,
    1.5,
    -1.5,
    1e-320,
    1e308,
    -1e308,
    math.inf,
    -math.inf,
    math.nan,
    "",
    " ",
    "a",
    "0",
    "1e3",
    "nan",
    "None",
    "../..",
    "/",
    "~",
    "~nobody/x",
    "x" * 5000,
    "\x00",
    "\x1b[31m",
    "\u202egnp",
    "\udce9",
    "猫",
    "ﬀ",
    "²",
    "٣",
    [],
    {},
    [[]],
    [{}],
    {"a": {}},
    [0] * 50,
    [None],
    [1, [2, [3]]],
    ["a", 1],
    {"type": "ReLU"},
    {"type": "Conv2d", "out_channels": 2, "kernel_size": 3},
    {"block": "a"},
    {"type": "Sequential", "layers": []},
    {"type": "Residual", "body": [{"type": "ReLU"}]},
    {"": 1},
    {"type": None},
    {"type": "Linear", "out_features": 10**6},
    {"block": "a", "repeat": 10**6},
    "sample",
    "folder",
    "numba",
    "RGB",
    "SGD",
]


def places(tree, path=()):
    """Yield the path of every value in a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def value_at(tree, path):
    """Return the value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def mutated(tree, rng, times=1):
    """Return (what was done, a copy of ``tree`` changed at ``times`` places)."""
    tree, told = copy.deepcopy(tree), []
    for _ in range(times):
        paths = list(places(tree))
        if not paths:
            break
        path = rng.choice(paths)
        node, key = value_at(tree, path[:-1]), path[-1]
        kind = rng.choice(("value", "value", "value", "delete", "double", "move", "rename", "number", "text"))
        new = rng.choice(ODD)
        if kind == "delete":
            del node[key]
        elif kind == "double" and isinstance(node, list):
            node += [copy.deepcopy(node[key]) for _ in range(rng.choice((1, 2, 30)))]
        elif kind == "rename" and isinstance(node, dict):
            node[str(rng.choice(("typ", "layers", "", "x\x1b", key + "s")))] = node.pop(key)
        elif kind == "number" and isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = rng.choice(
                (
                    -node[key],
                    node[key] + 1,
                    node[key] * 10**6,
                    node[key] / 3,
                    float(node[key]),
                    str(node[key]),
                )
            )
        elif kind == "text" and isinstance(node[key], str):
            node[key] = text_mutated(node[key], rng)
        elif kind == "move":
            node[key] = copy.deepcopy(value_at(tree, rng.choice(paths)))
        else:
            node[key] = copy.deepcopy(new)
        told.append(f"{kind} {'.'.join(map(str, path))} {str(new)[:40] if kind == 'value' else ''}")
    return "; ".join(told), tree


def text_mutated(text, rng):
    """Return a text with something of it lost, doubled, put in or replaced."""
    i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    return rng.choice(
        (
            text[:i] + text[j:],
            text[:j] + text[i:],
            text[:i] + str(rng.choice(ODD)) + text[j:],
            text.swapcase(),
        )
    )


def bytes_mutated(content, rng):
    """Return bytes with some changed, lost, doubled or put in, often near the beginning."""
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 30))):
        if not spoilt:
            break
        end = len(spoilt) if rng.random() < 0.5 else min(200, len(spoilt))
        i = rng.randrange(end)
        kind = rng.randrange(6)
        if kind == 0:
            spoilt[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            spoilt[i : i + 4] = rng.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1")
            )
        elif kind == 2:
            del spoilt[i : i + rng.choice((1, 2, 4, 100, 10**6))]
        elif kind == 3:
            spoilt[i:i] = spoilt[i : i + rng.choice((1, 12, 100))]
        elif kind == 4:
            spoilt[i:i] = rng.randbytes(rng.choice((1, 4, 100)))
        else:
            spoilt[i : i + rng.choice((1, 2, 8))] = rng.randbytes(rng.choice((1, 2, 8)))
    return bytes(spoilt)
