"""The data of a page as text: tables as JSON and all tensors as float32, each block deflated and in base64.

The bytes of the numbers are ordered by their place in the number, all highest bytes last: signs and exponents
are alike, mantissas are not, so they deflate better (the "shuffle" filter of HDF5 and Blosc).
"""

import base64
import json
import zlib

import numpy as np

__all__ = ["deflated", "pack_numbers"]

_LEVEL = 6  # 9 takes five times as long for 0.6 %


def deflated(value) -> str:
    """Return bytes, or any JSON value, deflated (RFC 1950) and as base64."""
    if not isinstance(value, bytes):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        value = value.encode("utf-8", "backslashreplace")
    return base64.b64encode(zlib.compress(value, _LEVEL)).decode("ascii")


def _shuffled(numbers: bytes) -> bytes:
    return np.frombuffer(numbers, np.uint8).reshape(-1, 4).T.tobytes()


def pack_numbers(nodes, history):
    """Return (nodes and history for JSON, sizes of the blocks in numbers, the blocks as text).

    A tensor is named by its offset in the blocks laid end to end, little-endian float32, one block a node
    and one a moment of the history. Equal arrays (a Flatten's input and output) are stored once.
    """
    block, places, specs, past, sizes, blocks = bytearray(), {}, [], [], [], []
    start = 0  # of the block

    def put(array):
        data = np.ascontiguousarray(array, dtype="<f4").tobytes()
        end = start + len(block) // 4
        offset = places.setdefault(data, end)
        if offset == end:
            block.extend(data)
        return {
            "shape": list(array.shape),
            "offset": offset,
            "size": int(array.size),
            "crc": zlib.crc32(data),
        }

    def finish():
        nonlocal start
        if block:
            start += len(block) // 4
            sizes.append(len(block) // 4)
            blocks.append(deflated(_shuffled(bytes(block))))
            block.clear()

    for node in nodes:
        specs.append(
            {
                "id": node.id,
                "name": node.name,
                "kind": node.kind,
                "inputs": node.inputs,
                "shape": list(node.stored["y"].shape),
                "attrs": node.attributes,
                "stored": {name: put(array) for name, array in node.stored.items()},
                "parameters": node.parameters,
                "buffers": node.buffers,
                "values_only": node.values_only,
            }
        )
        if len(node.batch) > 1:
            specs[-1]["batch"] = [{name: put(array) for name, array in own.items()} for own in node.batch]
        finish()
    for step, state in history:
        arrays = [
            {name: put(state[f"{node.name}.{name}"]) for name in (*node.parameters, *node.buffers)}
            for node in nodes
        ]
        past.append({"step": step, "nodes": arrays})
        finish()
    return specs, past, sizes, blocks
