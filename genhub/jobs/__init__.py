"""Command lines as jobs, so many at a time, on this machine, a Slurm cluster or ray: `jobs` runs them, `launchers` finds
where. Rooms above use these two; `local`, `slurm` and `ray` are inside, and `remote`, what is done on another machine."""
