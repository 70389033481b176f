"""Estimators with the interface of scikit-learn: the only part of bilevel that knows it."""
