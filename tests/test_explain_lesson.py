"""The moving pictures of a convolution's gradients: what a learner changes, the picture follows."""

import pytest


@pytest.mark.parametrize(("picture", "products", "total"), [("dx", 18, 14), ("dweight", 9, 12)])
def test_the_moving_picture_of_a_convolution_adds_up_to_the_gradient(read, file, picture, products, total):
    reader = read(file)
    reader.page.click(".row[data-kind=Conv2d] .more")
    fold = reader.page.locator(".toy-fold").nth(1 if picture == "dx" else 0)
    fold.locator("summary").click()
    step = fold.get_by_role("button").nth(1)
    for _ in range(products):
        step.click()
    assert "✓" in fold.locator(".toy-sums").inner_text()
    assert float(fold.locator(".toy-sums strong").inner_text().split("=")[-1].replace("−", "-")) == total
    fold.locator("select[data-setting=stride]").select_option("2")
    step.click()
    assert "…" in fold.locator(".toy-sums").inner_text()
