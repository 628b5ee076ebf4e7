"""An image inside of a page."""

import base64
import io


def thumbnail(pixels, side=40):
    """Return an ``<img>`` of (C, H, W) uint8 pixels, ``side`` CSS pixels high; "" unless C is 1 or 3."""
    from PIL import Image

    if pixels.shape[0] not in (1, 3):
        return ""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    image.thumbnail((4 * side, 4 * side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img height="{side}" style="image-rendering:pixelated" src="data:image/png;base64,{data}"/>'
