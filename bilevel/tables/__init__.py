"""Tables of rows and columns: CSV files, scaled columns, and models that predict from them."""

from bilevel.tables.model import Model as Model
from bilevel.tables.predicting import Predicted as Predicted
