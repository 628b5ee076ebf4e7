"""A search over settings that many processes share: spaces, trials, workers, the page of results."""
