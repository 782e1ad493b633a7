"""Networks: an LSTM in torch, and the same computed for many sessions at once."""
