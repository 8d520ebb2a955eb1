"""Interfaces that genhub and strangers keep to: models, phases, capabilities, noise schedules, trainers, extractors, their
Configs, the registry. Read this room first. Its public classes are names of `genhub`.
"""
