"""What a session learns of its own stream: readout, intervals, surprise."""
