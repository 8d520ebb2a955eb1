"""The built-in trainer, `accelerate`: a plugin like any other, reached by its name. `loop` is to be read first."""
