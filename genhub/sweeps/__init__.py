"""Many runs of one recipe: `sweep` trains a grid of settings, `search` looks for the best ones with Optuna. Inside:
`settings` reads what the user varies, `point` is one run, `figure` says which is best, `study` is Optuna's part."""
