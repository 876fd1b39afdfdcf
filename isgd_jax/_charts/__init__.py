"""Control charts: what one is, its windows, and the kinds of it."""
