"""Capabilities; the contract of a model is held by test_trainer.py and test_checkpoint.py."""

from __future__ import annotations

from genhub import Autoencoder, Denoiser, Likelihood


def test_capabilities_are_asked_by_what_an_object_has():
    class Coder:
        def encode(self, x, conditions=None): ...
        def decode(self, latents, conditions=None): ...

    assert isinstance(Coder(), Autoencoder)
    assert not isinstance(Coder(), Denoiser | Likelihood)
