"""Draw from a model: a `request` says what, `draw` draws, `options` and `asked` read wishes, `files` writes.
Rooms above may use every name without a `_`; they draw through `draw` alone, so that row i depends on (seed, i)."""
