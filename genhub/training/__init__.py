"""The built-in trainer, `accelerate`, a plugin like any other: read `loop` first. It is reached by its registered name; no
room above imports it but `testing`, which holds models to `checks`, `optim` and `ema`."""
