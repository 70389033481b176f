"""Small nouns that every layer uses."""
