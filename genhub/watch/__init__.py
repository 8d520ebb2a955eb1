"""`genhub watch`: a page that follows runs live, from their files alone. `http_api` serves it, `watching` finds the runs,
`watched` says how each one is, `holder` which process trains it. No torch here."""
