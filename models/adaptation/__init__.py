"""What sessions learn of their own streams: readout, intervals, surprise."""
