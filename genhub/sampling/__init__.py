"""Drawing: from a model to images, to pictures and to files. `draw` draws, `options` reads what a user asks for, `files`
writes as it is drawn.
"""
