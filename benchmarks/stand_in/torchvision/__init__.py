"""What the peers of peers.py use of torchvision, for torch versions that it has no build for: the same arithmetic for each
image, by Pillow. Put on the path only where the real one can't be imported."""

from . import transforms, utils  # noqa: F401
