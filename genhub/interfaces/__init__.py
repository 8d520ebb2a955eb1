"""What genhub and a stranger agree on: models, phases, capabilities, noise schedules, trainers, extractors, their Configs,
the registry. Read this room first. Its public classes are names of `genhub`.
"""
