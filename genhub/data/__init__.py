"""From images wherever they lie to batches in an order known beforehand. The door is `open`: `open_data`, `load_data`.
Rooms above also use `batches`, `stream`, `latents`, `split`, `workers`; the other modules are inside."""
