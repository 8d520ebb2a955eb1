"""Repositories on the Hub: `client` asks, `named` and `repository` find and fetch, `load` makes a model of it, `push` sends.
Rooms above may use every name without a `_`; nothing asks the Hub but through `client.connect`."""
