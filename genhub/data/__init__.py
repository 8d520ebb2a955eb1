"""From images wherever they lie to batches in an order that is known beforehand. `open` opens what a recipe names;
`sources` finds, `decode` decodes, `batches` and `stream` order.
"""
