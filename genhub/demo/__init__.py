"""A page on which to draw from models: `form` says what it consists of, `shown` draws, `gradio_page` is the page.
The verb calls `serve`; whoever shows it elsewhere, a notebook say, needs `Form`, `Wish` and `draw_shown` alone."""
