"""Drawing: from a model to images, to pictures and to files. `request` is what is asked for, `draw` draws it, `files`
writes as it is drawn.
"""
