"""Read the pixels of a canvas in a browser."""

import base64
import io

import numpy as np
from PIL import Image


def read_canvas(canvas):
    """Return the bytes of a canvas, height × width × RGBA."""
    return np.array(read_address(canvas.evaluate("canvas => canvas.toDataURL()")))


def read_address(address):
    """Return the picture that an address of data holds."""
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA")
