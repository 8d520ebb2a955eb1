"""Imported by the peers, never called in what is measured."""


def save_image(*args, **kwargs):
    raise RuntimeError("a stand-in: what is measured saves no images")


make_grid = save_image
