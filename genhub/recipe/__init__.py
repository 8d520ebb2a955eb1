"""From YAML and overrides to a frozen `Recipe`, and its `schema`; no torch: a plugin is imported when its Config is needed.
Rooms above use `recipe` (`read_recipe` first of all), `sections`, `schema`, `shipped` and `theirs`; `hints` is inside."""
