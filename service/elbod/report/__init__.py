"""One version of a model on one page: what it draws, what it scores, and how far its numbers can be trusted."""
