"""From YAML and overrides to a frozen `Recipe`, and its schema. No torch; a plugin is imported when its Config is needed."""
