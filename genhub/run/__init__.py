"""From a recipe to a trained run: its folder, what a trainer is handed, publishing, the dry run. `train` is the verb;
`prepare` builds what a recipe names.
"""
