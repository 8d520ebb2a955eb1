"""Repositories on the Hub: finding, fetching, loading, publishing and pushing. Everything that asks the Hub goes through
`client`.
"""
