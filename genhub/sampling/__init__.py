"""Draw images from a model, and make pictures and files of them. `request` is what is asked for, `draw` draws it, `files`
writes as it is drawn.
"""
