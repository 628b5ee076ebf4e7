"""Predicting very many image files: which ones, decoded while the network computes, into a table."""
