"""Draw images from a model: a `request` says which, `draw` draws, `options` and `labels` read wishes, `files` writes.
Rooms above may use every name without a `_`; they draw through `draw` alone, so that image i depends on (seed, i)."""
