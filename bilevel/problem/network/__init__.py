"""Problems around modules of one's own."""
