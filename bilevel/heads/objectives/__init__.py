"""Head objectives as functions of vectors, with their Hessians."""
