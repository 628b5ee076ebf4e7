"""Networks trained for the site: their pages of `cnn explain`, the tour through one, and the one that plays live."""

import base64
import json
import shutil
import sys
from dataclasses import dataclass, field
from html import escape

import numpy as np

from cnn import Network, set_threads
from cnn.commands.explain import explain
from cnn.config import load_config
from cnn.data import load_dataset
from cnn.explain import collect
from cnn.explain.page import texts
from cnn.explain.samples import choose_samples
from cnn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, SoftmaxCrossEntropy
from cnn.optimizers import SGD
from cnn.training import evaluation, experiment, run_folder
from cnn.training.loop import Trainer
from cnn.training.lr_find import draw, find_learning_rate
from website.shell import Page

_STATIONS = [key.split(".")[1] for key in texts("en") if key.startswith("tour.") and key.endswith(".title")]


@dataclass
class Found:
    """``pages``: {name: accuracy in %}; ``small``: names of those that learnt the bundled digits instead of their
    own data set; ``live``: the data of the landing page's network."""

    pages: dict = field(default_factory=dict)
    small: set = field(default_factory=set)
    live: str = ""


#: What a network learns whose own data set is not there: the bundled digits, not mirrored and not cropped.
_INSTEAD = ["data.dataset=sample", "data.augment=[]"]


def _recipes(root, data, draft):
    """Yield (name, config file, overrides, image, the missing data set or "")."""
    yield "digits", root / "configs" / "sample.toml", ["train.epochs=2"] if draft else [], 3, ""
    for name, config, epochs, source, missing in (
        ("lenet", "mnist_lenet.toml", (4, 10), _mnist(data), "MNIST"),
        ("residual", "cifar10_small.toml", (4, 6), _cifar(data), "CIFAR-10"),
    ):
        count = 0 if draft else epochs[source is None]
        overrides = [*(source or _INSTEAD), f"train.epochs={count}"]
        yield name, root / "configs" / config, overrides, 0, missing if source is None else ""


def _mnist(data):
    """Return the overrides that read MNIST from the folder ``data``, or None where it is not."""
    return [f"data.root={data}"] if data and (data / "MNIST").is_dir() else None


def _cifar(data):
    """Return the overrides that read CIFAR-10, as torchvision keeps it or as JPEG files, or None."""
    if data and (data / "cifar-10-batches-py").is_dir():
        return [f"data.root={data}"]
    images = data and data / "cifar10-images"
    return ["data.dataset=folder", f"data.root={images}"] if images and images.is_dir() else None


def build(root, out, data, draft):
    """Train, write networks/NAME.html; return what was found."""
    if draft:
        set_threads(1)  # two that wait for each other take long on a busy machine
    found = Found()
    folder = out / "networks"
    folder.mkdir()
    runs = out / "runs"
    for name, file, overrides, image, missing in _recipes(root, data, draft):
        if missing:
            found.small.add(name)
            where = f"{data}: no {missing}" if data else f"no {missing}"
            print(f"{where}; networks/{name}.html has learnt the bundled digits instead", file=sys.stderr)
        trainer = Trainer(load_config(file, overrides))
        trainer.run = run_folder.create(str(runs / name), name)
        trainer.fit()
        page, _ = explain(str(runs / name), str(image), max_mb=30, history=name == "digits")
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        network, config, meta = experiment.load_trained(str(runs / name))
        found.pages[name] = 100 * _accuracy(network, config, meta)

    shutil.rmtree(runs, ignore_errors=True)
    _draw_range_test(root, out / "pictures" / "lr-find.png")
    found.live = _live(2 if draft else 12)
    return found


def _draw_range_test(root, path):
    """Draw the curve of the chapter on the learning rate."""
    config = load_config(root / "configs" / "sample.toml")
    curve = find_learning_rate(Trainer(config), steps=150)
    draw(path, curve)


def _accuracy(network, config, meta):
    test = experiment.read_dataset(config).test
    batches = experiment.evaluation_batches(config, test, meta["mean"], meta["std"])
    return evaluation.evaluate(network, batches)[1]


def _live(epochs):
    """Return the JSON of a small network of the bundled digits, for the engine of the explain page."""
    digits = load_dataset("sample")
    network = Network(
        [Conv2d(8, kernel_size=5, stride=2, padding=2), ReLU(), MaxPool2d(2), Flatten(), Linear(10)]
    )
    network.build((1, 28, 28), rng=np.random.default_rng(0))
    loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.05, momentum=0.9)
    rng = np.random.default_rng(1)
    for _ in range(epochs):
        order = rng.permutation(len(digits.train))
        for start in range(0, len(order) - 63, 64):
            chosen = order[start : start + 64]
            images = _shifted(digits.train.images[chosen], rng)
            loss.forward(network.forward(images, training=True), digits.train.labels[chosen])
            network.backward(loss.backward(), input_gradient=False)
            optimizer.step()
            network.zero_grad()
    nodes = collect(network, digits.test.images[0] / np.float32(255), int(digits.test.labels[0]))
    images, labels = choose_samples(digits.test, 10, 20)
    specs = [
        {
            "id": node.id,
            "name": node.name,
            "kind": node.kind,
            "inputs": node.inputs,
            "shape": list(node.stored["y"].shape),
            "attrs": node.attributes,
            "parameters": node.parameters,
            "buffers": node.buffers,
            "stored": {name: {"shape": list(array.shape)} for name, array in node.stored.items()},
            "values": {name: _packed(node.stored[name]) for name in node.parameters},
        }
        for node in nodes
    ]
    right = network.predict(digits.test.images / np.float32(255)).argmax(1) == digits.test.labels
    sample = {"pixels": base64.b64encode(images.tobytes()).decode(), "labels": [int(v) for v in labels]}
    return json.dumps({"nodes": specs, "samples": sample, "accuracy": float(right.mean())})


def _shifted(images, rng):
    down, right = rng.integers(-2, 3, 2)
    return np.roll(images, (down, right), (2, 3)) / np.float32(255)


def _packed(array):
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


_ABOUT = {
    "digits": {
        "en": ("Bundled digits", "LeNet-5 with batch normalisation, trained on the 4,000 digits that come with cnn, with its whole history."),
        "zh": ("自带的手写数字", "带批归一化的 LeNet-5，用随 cnn 附带的 4,000 张数字训练，包含完整的训练历史。"),
    },
    "lenet": {
        "en": ("LeNet-5 on MNIST", "The network of 1998, trained on 60,000 digits."),
        "zh": ("MNIST 上的 LeNet-5", "1998 年的网络，用 60,000 张数字训练。"),
    },
    "residual": {
        "en": ("A residual network on CIFAR-10", "Small, with two skip connections, on colour photographs of ten kinds."),
        "zh": ("CIFAR-10 上的残差网络", "一个小网络，有两条跳跃连接，识别十类彩色照片。"),
    },
}  # fmt: skip

#: The same, where they learnt the bundled digits.
_ABOUT_SMALL = {
    "lenet": {
        "en": ("LeNet-5", "The network of 1998, trained on the bundled digits, which are a part of MNIST: the whole was not there when this site was built."),
        "zh": ("LeNet-5", "1998 年的网络，用自带的数字训练。它们是 MNIST 的一部分，构建本站时没有完整的 MNIST。"),
    },
    "residual": {
        "en": ("A residual network", "The one for CIFAR-10, with two skip connections; here it has learnt the bundled digits, since CIFAR-10 was not there when this site was built."),
        "zh": ("残差网络", "为 CIFAR-10 设计的网络，有两条跳跃连接。构建本站时没有 CIFAR-10，所以这里学的是自带的数字。"),
    },
}  # fmt: skip

_WORDS = {
    "en": {
        "title": "Networks to look into",
        "lead": "Each page holds one trained network and one image: every activation and every gradient as the kernels "
        "computed them. Click any number and read the sum that made it; draw, change a weight, train it there.",
        "accuracy": "{a:.1f} % of its test images right",
        "tour": "A tour of a network",
        "tourlead": "Thirteen stations on one chain of numbers: from a pixel forward to the loss, and back. At each one you "
        "guess first. The stations open inside a real network, on its own numbers.",
        "begin": "Begin the tour",
        "places": "Places worth a visit",
        "loss": "The loss: from logits to p − y",
        "train": "Draw a digit and train the network in the page",
        "experiments": "Finite differences, and one step of gradient descent",
        "pictures": "What the network looks at",
        "cell": "One number of the second convolution, with the sum behind it",
    },
    "zh": {
        "title": "可以看进去的网络",
        "lead": "每个页面是一个训练好的网络和一张图像：所有激活值和梯度都是内核实际算出的。点任何一个数，就能看到得出它的"
        "那个求和；还可以画图、改权重、就地训练。",
        "accuracy": "测试图像正确率 {a:.1f} %",
        "tour": "网络导览",
        "tourlead": "十三站，沿着一串数字走：从一个像素向前直到损失，再往回。每一站都请你先猜。这些站就在一个真实的网络里，"
        "用的是它自己的数字。",
        "begin": "开始导览",
        "places": "值得一看的地方",
        "loss": "损失：从 logits 到 p − y",
        "train": "画一个数字，在页面里训练网络",
        "experiments": "有限差分检验，以及梯度下降的一步",
        "pictures": "网络在看哪里",
        "cell": "第二个卷积层里的一个数，以及它背后的求和",
    },
}


def page(language, found):
    """Return the page that leads to the networks."""
    words = _WORDS[language]
    cards = ""
    for name, accuracy in found.pages.items():
        title, about = (_ABOUT_SMALL if name in found.small else _ABOUT)[name][language]
        cards += (
            f'<li><a href="../networks/{name}.html?lang={language}"><strong>{title}</strong><span>{about}</span>'
            f"<span class='fine'>{words['accuracy'].format(a=accuracy)}</span></a></li>"
        )
    places = "".join(
        f'<li><a href="../networks/digits.html?lang={language}{place}">{words[key]}</a></li>'
        for key, place in (
            ("loss", "#/loss"),
            ("cell", "#/network/5/y/0,4,6"),
            ("train", "#/train"),
            ("experiments", "#/experiments"),
            ("pictures", "#/pictures"),
        )
    )
    body = (
        f'<article class="prose"><h1>{words["title"]}</h1><p class="lead">{words["lead"]}</p><ul class="cards">{cards}</ul>'
        f"<h2>{words['places']}</h2><ul>{places}</ul></article>"
    )
    return Page("networks", language, words["title"], body)


def tour(language):
    """Return the page of the tour: its stations, each a link into the network."""
    words, found = _WORDS[language], texts(language)
    items = []
    for name in _STATIONS:
        ask = found.get(f"tour.{name}.ask", "")
        question = "" if "{" in ask else f"<span>{escape(ask)}</span>"  # some ask about the image at hand
        items.append(
            f'<li><a href="../networks/digits.html?lang={language}#tour={name}"><strong>{escape(found[f"tour.{name}.title"])}'
            f"</strong>{question}</a></li>"
        )
    body = (
        f'<article class="prose"><h1>{words["tour"]}</h1><p class="lead">{words["tourlead"]}</p>'
        f'<p><a class="button" href="../networks/digits.html?lang={language}#tour={_STATIONS[0]}">{words["begin"]}</a></p>'
        f'<ol class="cards stations">{"".join(items)}</ol></article>'
    )
    return Page("tour", language, words["tour"], body)
