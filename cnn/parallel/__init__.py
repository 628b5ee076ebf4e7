"""Several processes that train one network: who does which part of a batch, and sums with the same bits."""
