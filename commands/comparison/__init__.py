"""Tables of several objectives: which cells there are, and running one; `commands.tables` makes the page."""
