"""Tables of rows and columns: CSV files, scaled columns, and models that predict from them."""
