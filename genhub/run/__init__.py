"""From a recipe to a trained run: `train` is the verb, `prepare` builds what a recipe names, `run` is handed to a trainer.
Rooms above also use `dry_run` and `publish`; `claims` (who may train in a folder) and `publisher` are inside."""
