"""Reads an ONNX model as a network."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnn.errors import CheckpointError, ConfigError
from cnn.interop.card import About
from cnn.interop.extras import require
from cnn.interop.onnx_fold import FOLD, MOST
from cnn.interop.onnx_rules import RULES
from cnn.interop.structure import Node, nest
from cnn.layers.graph import joined_shape
from cnn.network import Network

OPSETS = (7, 28)
BATCH = 1_000_003  # stands for the number of images where a graph computes with shapes


class Refused(Exception):
    """What a rule cannot take: the message says which attribute or input, what was expected and found."""


@dataclass(eq=False)
class Value:
    """A result that depends on the images.

    Parameters
    ----------
    node : Node or None
        What makes it; None for the network's input.
    shape : tuple
        Without the batch axis.
    """

    node: Node | None
    shape: tuple


def read_onnx(file):
    """Return (network, About, {entry of ``Network.state()``: initializer}) of an ONNX file.

    Parameters
    ----------
    file : path
        A model of one image input (N, C, H, W), with sizes that are known but for N, and one output;
        opsets 7 to 28.

    Raises MissingExtra without the onnx package, CheckpointError for what cannot be read or has no layer
    here: the line names the node, its operator and the attribute.
    """
    onnx = require("onnx", "onnx", "ONNX")
    path = Path(file)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's own DecodeError, which cannot be imported without it
        raise CheckpointError(f"{path}: found no whole ONNX model ({_line(error)})") from error
    try:
        return _Reader(onnx, model).read()
    except (Refused, ConfigError) as error:
        raise CheckpointError(f"{path}: {_line(error)}") from error
    except (TypeError, ValueError, AttributeError) as error:  # protobuf hands on strings that are no UTF-8
        raise CheckpointError(f"{path}: found a damaged ONNX model ({_line(error)})") from error


def _line(error):
    return " ".join(str(error).split())[:300] or type(error).__name__


class _Reader:
    """One model on its way to a network."""

    def __init__(self, onnx, model):
        self.onnx, self.model, self.graph = onnx, model, model.graph
        self.values = {}  # name -> array (a constant) or Value
        self.weights = {}  # id(layer) -> {attribute: (array, initializer's name)}
        self.layers = []  # keeps the ids above taken

    def read(self):
        self.opset = self._find_opset()
        for tensor in self.graph.initializer:
            self.values[tensor.name] = self.array(tensor)
        shape = self._find_input()
        for number, node in enumerate(self.graph.node):
            self._convert(node, number)
        output = self._find_output()
        network = Network(nest(output.node))
        network.build(shape)
        return network, self._about(shape), self._load(network)

    def array(self, tensor):
        """Return a TensorProto as an array."""
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            raise Refused(f'tensor "{tensor.name}": its data lies in another file, expected it in this one')
        try:
            array = self.onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise Refused(f'tensor "{tensor.name}": cannot be read ({_line(error)})') from error
        return array.astype(np.float32) if array.dtype in (np.float16, np.float64) else array

    def _find_opset(self):
        found = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        if not found or not OPSETS[0] <= found[0] <= OPSETS[1]:
            raise Refused(f"opset {found[0] if found else 'none'}, expected {OPSETS[0]} to {OPSETS[1]}")
        return found[0]

    def _find_input(self):
        """Return the shape (C, H, W) of the one input that is no initializer."""
        inputs = [entry for entry in self.graph.input if entry.name not in self.values]
        if len(inputs) != 1:
            raise Refused(f"found {len(inputs)} inputs, expected one batch of images")
        name, tensor = inputs[0].name, inputs[0].type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        if len(sizes) not in (2, 4) or min(sizes[1:]) < 1:
            raise Refused(
                f'input "{name}": found shape {tuple(sizes)}, expected (N, C, H, W) or (N, F) with known '
                "sizes but for the first"
            )
        self.batch = sizes[0] or BATCH
        self.values[name] = Value(None, tuple(sizes[1:]))
        return tuple(sizes[1:])

    def _find_output(self):
        if not self.graph.output:
            raise Refused("found no output, expected the logits")
        output = self.values.get(self.graph.output[0].name)
        if not isinstance(output, Value):
            raise Refused(f'output "{self.graph.output[0].name}": it does not depend on the input')
        return output

    def _convert(self, node, number):
        label = f'node "{node.name or number}" ({node.op_type})'
        try:
            if node.domain not in ("", "ai.onnx"):
                raise Refused(f'domain "{node.domain}", expected the standard operators')
            missing = [name for name in node.input if name and name not in self.values]
            if missing:
                raise Refused(f'input "{missing[0]}": nothing before it makes it')
            call = Call(self, node)
            constant = not any(isinstance(value, Value) for value in call.inputs)
            if node.op_type in FOLD and (constant or node.op_type == "Shape"):
                results = FOLD[node.op_type](call)
            elif node.op_type in RULES:
                results = RULES[node.op_type](call)
            else:
                raise Refused("there is no layer for this operator")
            call.check_used()
        except (Refused, ConfigError, ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise Refused(f"{label}: {_line(error)}") from error
        results = results if isinstance(results, list) else [results]
        for name, value in zip(node.output, results, strict=False):
            size = value.size if isinstance(value, np.ndarray) else int(np.prod(value.shape, dtype=object))
            if size > MOST:
                raise Refused(f"{label}: the result has {size:,} numbers, expected at most {MOST:,}")
            self.values[name] = value
        for name in list(node.output)[len(results) :]:
            self.values.pop(name, None)

    def _load(self, network):
        """Copy the weights into the built network; return where each came from."""
        origins = {}
        for name, layer in network.walk():
            for key, (array, origin) in self.weights.get(id(layer), {}).items():
                target = getattr(layer, key)
                if isinstance(target, np.ndarray):
                    target[...] = array
                else:
                    target.data = array
                origins[f"{name}.{key}"] = origin
        return origins

    def _about(self, shape):
        found = {entry.key.removeprefix("cnn."): entry.value for entry in self.model.metadata_props}
        facts = {"name": found.get("name") or self.graph.name or "network", "card": found.get("card", "")}
        facts |= {key: found[key] for key in ("targets", "ending") if key in found}
        for key in ("classes", "image_shape", "crop", "mean", "std"):
            try:
                facts[key] = json.loads(found[key])
            except (KeyError, ValueError):
                facts[key] = [] if key == "classes" else None
        facts["image_shape"] = tuple(facts["image_shape"] or shape)
        return About(**facts)


class Call:
    """One ONNX node as a rule sees it."""

    def __init__(self, reader, node):
        self.reader, self.node, self.opset, self.op = reader, node, reader.opset, node.op_type
        self.inputs = [reader.values[name] if name else None for name in node.input]
        self._attributes = {}
        for entry in node.attribute:
            value = reader.onnx.helper.get_attribute_value(entry)
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            self._attributes[entry.name] = value
        self._used = set()

    def attribute(self, name, default=None):
        """Return an attribute, or its default."""
        self._used.add(name)
        return self._attributes.get(name, default)

    def ignore(self, *names):
        """These attributes change nothing."""
        self._used.update(names)

    def check_used(self):
        """Raise Refused for an attribute that the rule does not know."""
        for name in self._attributes:
            if name not in self._used:
                raise Refused(f"attribute {name}: it is not known here")

    def expect(self, name, default, *allowed):
        """Raise Refused unless an attribute has one of the values ``allowed``."""
        value = self.attribute(name, default)
        if value not in allowed:
            raise Refused(f"attribute {name}: found {value!r}, expected {' or '.join(map(repr, allowed))}")
        return value

    def has(self, k):
        """Whether input ``k`` is given."""
        return k < len(self.inputs) and self.inputs[k] is not None

    def value(self, k=0, axes=None):
        """Return input ``k``, which must depend on the images, of ``axes`` axes with the batch's."""
        found = self.inputs[k] if self.has(k) else None
        if not isinstance(found, Value):
            raise Refused(f"input {k}: found a constant, expected what depends on the images")
        if axes is not None and len(found.shape) + 1 not in axes:
            raise Refused(
                f"input {k}: found {len(found.shape) + 1} axes, expected {' or '.join(map(str, axes))}"
            )
        return found

    def varies(self, k):
        """Whether input ``k`` depends on the images."""
        return self.has(k) and isinstance(self.inputs[k], Value)

    def constant(self, k, default=None):
        """Return input ``k``, which must be known before any image is."""
        if not self.has(k):
            if default is None:
                raise Refused(f"input {k}: it is missing")
            return default
        if isinstance(self.inputs[k], Value):
            raise Refused(f"input {k}: found what depends on the images, expected a constant")
        return self.inputs[k]

    def refuse(self, message):
        """Raise Refused."""
        raise Refused(message)

    def single_output(self):
        """Raise Refused when another output than the first is read."""
        read = {name for other in self.reader.graph.node for name in other.input}
        read |= {entry.name for entry in self.reader.graph.output}
        for name in list(self.node.output)[1:]:
            if name in read:
                raise Refused(f'output "{name}": only the first output is offered')

    def layer(self, made, value, **weights):
        """Return the Value of a layer applied to ``value``; ``weights`` are (array, index of the input)."""
        shape = made.build(value.shape)
        self.reader.layers.append(made)
        self.reader.weights[id(made)] = {
            key: (np.asarray(array), self.node.input[k] if k is not None else None)
            for key, (array, k) in weights.items()
        }
        for key, (array, _) in self.reader.weights[id(made)].items():
            target = getattr(made, key)
            if target.shape != array.shape:
                raise Refused(f"{key}: found shape {array.shape}, expected {target.shape}")
        return Value(Node(made, [value.node]), tuple(shape))

    def join(self, what, values):
        """Return the Value of "add", "concat" or "mul"."""
        shape = joined_shape(what, [value.shape for value in values])
        return Value(Node(what, [value.node for value in values]), shape)
