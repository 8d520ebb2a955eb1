"""Imported by the peers, never called in what is measured."""


def save_image(*args, **kwargs):
    raise NotImplementedError


make_grid = save_image
