"""Networks: recurrent ones in torch, the same computed for many sessions at once, and graphs."""
