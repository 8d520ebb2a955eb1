"""Model folders on the disk: `manifest` (genhub.json), `find`, `classes`, `models`, `checkpoints`, `run_folder`, the `card`.
Rooms above may use all of these; `manifest`, `find`, `classes` and `run_folder` import no torch."""
