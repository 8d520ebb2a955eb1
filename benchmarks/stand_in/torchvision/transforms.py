"""PIL images to tensors, as torchvision's transforms of these names do."""

import random
from enum import Enum

import numpy as np
import torch
from PIL import Image, ImageOps


class InterpolationMode(Enum):
    BILINEAR = "bilinear"


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class Lambda:
    def __init__(self, function):
        self.function = function

    def __call__(self, image):
        return self.function(image)


class Resize:
    def __init__(self, size, interpolation=None):
        self.size = size

    def __call__(self, image):
        if isinstance(self.size, int):  # of the shorter side
            scale = self.size / min(image.size)
            return image.resize([round(scale * side) for side in image.size], Image.Resampling.BILINEAR)
        height, width = self.size
        return image.resize((width, height), Image.Resampling.BILINEAR)


class CenterCrop:
    def __init__(self, size):
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, image):
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))


class RandomCrop(CenterCrop):
    def __call__(self, image):
        left, top = random.randint(0, image.width - self.width), random.randint(0, image.height - self.height)
        return image.crop((left, top, left + self.width, top + self.height))


class RandomHorizontalFlip:
    def __call__(self, image):
        return ImageOps.mirror(image) if random.random() < 0.5 else image


class PILToTensor:
    def __call__(self, image):
        return torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).permute(2, 0, 1)


class ToTensor(PILToTensor):
    def __call__(self, image):
        return super().__call__(image).contiguous().float().div(255)


class ConvertImageDtype:
    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, image):
        return image.to(self.dtype).div(255)


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, image):
        return (image - self.mean) / self.std
