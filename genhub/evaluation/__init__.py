"""Numbers that can be compared, each kept with its protocol: `evaluate` a model, `during` a run; `compare` and `sweep` many.
Rooms above also use `protocol` and `page`; the other modules are inside."""
