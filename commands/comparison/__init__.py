"""Tables of several objectives: which cells there are, running one, and the page of the finished ones."""
