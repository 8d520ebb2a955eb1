"""Draw images from a model, and make pictures and files of them. `draw` draws, `options` reads what a user asks for, `files`
writes as it is drawn.
"""
