"""What the explorable page does about damaged data, wrong kernels and hostile names."""

import base64
import zlib

import helpers_explain as h
import numpy as np
import pytest


def find_block(lines, tensor):
    """Return (line, its numbers as bytes (n, 4), where among them) of the block with a tensor."""
    wanted = tensor.astype("<f4").tobytes()
    for k, line in enumerate(lines[3:], 3):
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(line)), np.uint8).reshape(4, -1).T
        at = numbers.tobytes().find(wanted)
        if at >= 0:
            return k, numbers.copy(), at // 4
    raise AssertionError("in no block")


@pytest.mark.parametrize(
    ("kind", "tensor"), [("Conv2d", "weight"), ("BatchNorm2d", "running_var"), ("MaxPool2d", "y"),
                         ("Linear", "dweight"), ("GELU", "dy"), ("Loss", "target")]
)  # fmt: skip
def test_one_tampered_byte_names_the_layer(read, tmp_path, nodes, kind, tensor):
    node = next(node for node in nodes if node.kind == kind)
    before, data, after = h.lines_of(h.make_page(nodes))
    lines = data.split("\n")
    k, numbers, at = find_block(lines, node.stored[tensor])
    numbers[at + node.stored[tensor].size // 2, 0] ^= 1  # the lowest bit of the number in the middle
    lines[k] = base64.b64encode(zlib.compress(numbers.T.tobytes())).decode()
    (tmp_path / "page.html").write_text(before + "\n".join(lines) + after, encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert reader.page.get_attribute("#banner", "data-state") == "bad"
    assert reader.page.get_attribute("#banner", "data-layer") == node.name
    assert "are not those that were written" in reader.banner()


@pytest.mark.parametrize("harm", ["cut", "letter", "alphabet"])
def test_a_damaged_block_names_a_layer_and_leaves_the_others(read, tmp_path, nodes, harm):
    before, data, after = h.lines_of(h.make_page(nodes))
    lines = data.split("\n")
    node = next(node for node in nodes if node.kind == "Linear")
    k, *_ = find_block(lines, node.stored["weight"])
    middle = len(lines[k]) // 2
    other = {"cut": "", "letter": "B" if lines[k][middle] == "A" else "A", "alphabet": "!"}[harm]
    lines[k] = lines[k][:middle] + other + ("" if harm == "cut" else lines[k][middle + 1 :])
    (tmp_path / "page.html").write_text(before + "\n".join(lines) + after, encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert reader.page.get_attribute("#banner", "data-state") == "bad"
    assert reader.page.get_attribute("#banner", "data-layer") == node.name
    assert "are not those that were written" in reader.banner()


def test_damaged_tables_are_said_to_be_so(browser, tmp_path, nodes):
    before, data, after = h.lines_of(h.make_page(nodes))
    (tmp_path / "page.html").write_text(before + data[:100] + data[200:] + after, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("#page:has-text('damaged')")
    page.close()


def spoil_pool(nodes):
    """A max-pool that hands its gradient to every pixel of the window."""
    pool = next(node for node in nodes if node.kind == "MaxPool2d")
    nodes[pool.inputs[0]].stored["dy"] = nodes[pool.inputs[0]].stored["dy"] + 0.01
    return pool.name


def spoil_gate(nodes):
    """A ReLU that lets negative numbers through."""
    gate = next(node for node in nodes if node.kind == "ReLU")
    gate.stored["y"] = nodes[gate.inputs[0]].stored["y"]
    return gate.name


def spoil_loss(nodes):
    """A loss whose gradient is divided by N = 2."""
    logits = nodes[nodes[-1].inputs[0]]
    logits.stored["dy"] = logits.stored["dy"] / 2
    return "loss"


def spoil_weight_gradient(nodes):
    """A convolution whose kernel gradient is flipped."""
    conv = [node for node in nodes if node.kind == "Conv2d"][-1]
    conv.stored["dweight"] = conv.stored["dweight"][:, :, ::-1, ::-1].copy()
    return conv.name


@pytest.mark.parametrize("spoil", [spoil_pool, spoil_gate, spoil_loss, spoil_weight_gradient])
def test_a_wrong_kernel_is_named(read, tmp_path, spoil):
    nodes = h.make_nodes()
    name = spoil(nodes)
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert reader.page.get_attribute("#banner", "data-layer") == name
    assert "does not agree with its equation" in reader.banner()


def test_hostile_names_are_only_text(read, tmp_path, nodes):
    hostile = [
        "</script><script>window.hacked=1</script>",
        '"><img src=x onerror="window.hacked=1">',
        "<svg onload=window.hacked=1>",
        "{{blob}}\u2028{name}${1}",
        "javascript:window.hacked=1",
        "' onmouseover='window.hacked=1",
        "&lt;b&gt;",
    ]
    title = "<img src=x onerror=window.hacked=1> & co"
    (tmp_path / "page.html").write_text(h.make_page(nodes, title, hostile), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    for place in ("network", "loss", "experiments", "pictures"):
        reader.go(f"#/{place}")
    assert reader.page.inner_text("h1") == title
    assert reader.page.title() == title
    assert reader.page.evaluate("window.hacked") is None
    assert reader.page.locator("img, svg[onload]").count() == 0
    options = reader.page.locator("#cam-class option").all_text_contents()
    assert options == hostile


@pytest.mark.parametrize(
    "place",
    ["#/nowhere", "#/network/99/y/0", "#/network/1/__proto__/0", "#/network/1/y/0,0", "#/network/1/y/0.5,0,0",
     "#/network/1/y/0,99,0", "#/network/%E0%A4%A", "#/loss/1/y/0,0,0", "#<script>"],
)  # fmt: skip
def test_an_address_that_leads_nowhere_does_no_harm(read, file, place):
    reader = read(file, place)
    assert "values agree" in reader.banner()
    assert reader.page.locator("#value").count() == 0
