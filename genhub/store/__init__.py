"""Model folders on the disk: genhub.json, models, checkpoints, and the card. `manifest` and `find` import no torch."""
