"""PyTorch's side: the same networks and convolutions."""

import numpy as np
from benchmark_cases import NETWORKS, WIDER, fingerprint, images, operands


class Torch:
    """PyTorch: each of NCHW and channels_last, eager and compiled, float32 and bf16 (autocast)."""

    def __init__(self, threads):
        import torch
        import torch_twin

        self.torch, self._twin = torch, torch_twin
        torch.set_num_threads(threads)

    def _format(self, variant):
        torch = self.torch
        return torch.channels_last if variant.startswith("channels_last") else torch.contiguous_format

    def _autocast(self, variant):
        return self.torch.autocast("cpu", self.torch.bfloat16, enabled="bf16" in variant)

    def _module(self, spec):
        nn = self.torch.nn
        options = {key: value for key, value in spec.items() if key not in ("type", "body", "shortcut")}
        kind = spec["type"]
        if kind == "Residual":
            return self._twin.Residual(
                *(self._sequential(spec.get(part, [])) for part in ("body", "shortcut"))
            )
        if kind == "GlobalAvgPool2d":
            return self._twin.Global(self.torch.mean)
        lazy = kind in ("Conv2d", "Linear", "BatchNorm2d")
        return getattr(nn, f"Lazy{kind}" if lazy else kind)(**options)

    def _sequential(self, layers):
        return self.torch.nn.Sequential(*map(self._module, layers))

    def _network(self, name, weights, variant):
        torch = self.torch
        layers, shape = (NETWORKS | WIDER)[name]
        network = self._sequential(layers)
        network(torch.zeros(2, *shape))
        with torch.no_grad(), np.load(weights) as stored:
            for p, array in zip(network.parameters(), stored.values(), strict=True):
                p.copy_(torch.from_numpy(array))
            for layer in network.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.reset_running_stats()
        return network.to(memory_format=self._format(variant)), shape

    def step(self, name, batch, weights, variant):
        torch = self.torch
        network, shape = self._network(name, weights, variant)
        x, labels = map(torch.from_numpy, images(shape, batch))
        x = x.to(memory_format=self._format(variant))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        compiled = torch.compile(network) if "compiled" in variant else network

        def forward():
            with self._autocast(variant):
                logits = compiled(x)
            return torch.nn.functional.cross_entropy(logits.float(), labels)

        def run():
            optimizer.zero_grad(set_to_none=True)
            value = forward()
            value.backward()
            optimizer.step()
            return value.item()

        value = forward()
        value.backward()
        marks = {"loss": [value.item()] * 2} | {
            f"gradient {i}": fingerprint(p.grad.numpy()) for i, p in enumerate(network.parameters())
        }
        return run, marks

    def inference(self, name, batch, weights, onnx, variant):
        torch = self.torch
        network, shape = self._network(name, weights, variant)
        network.eval()
        x = torch.from_numpy(images(shape, batch)[0]).to(memory_format=self._format(variant))
        # freezing: weights are constants, so that normalisation moves into them and they are packed once
        frozen = {"freezing": True}
        compiled = torch.compile(network, options=frozen) if "compiled" in variant else network

        def run():
            with torch.inference_mode(), self._autocast(variant):
                return compiled(x)

        return run, {"logits": fingerprint(run().float().numpy())}

    def convolution(self, case, batch, direction, variant):
        torch = self.torch
        _, k, _, _, padding, stride, groups = case
        x, weight, bias, dy = map(torch.from_numpy, operands(case, batch))
        layout = self._format(variant)
        dtype = torch.bfloat16 if "bf16" in variant else torch.float32
        x, dy = (a.to(dtype=dtype, memory_format=layout) for a in (x, dy))
        weight, bias = weight.to(dtype), bias.to(dtype)
        if direction == "forward":

            def run():
                return torch.nn.functional.conv2d(x, weight, bias, stride, padding, 1, groups)
        else:
            mask = [direction == "d-input", direction == "d-weight", False]
            sizes = [k], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups

            def run():
                return torch.ops.aten.convolution_backward(dy, x, weight, *sizes, mask)[mask.index(True)]

        with torch.no_grad():
            return run, {direction: fingerprint(run().contiguous().float().numpy())}
