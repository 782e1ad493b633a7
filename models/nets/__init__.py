"""Networks: an LSTM in torch, and its layers folded for many sessions at once."""
