"""READ FIRST. Interfaces that genhub and strangers keep to: models, schedules, trainers, extractors, Configs, the registry.
Rooms above may use every name without a `_`; a plugin uses those that are names of `genhub`."""
