"""Model folders on the disk: genhub.json, models, checkpoints, the card, and the folder of a run. `manifest`,
`run_folder` and `find` import no torch.
"""
