"""Read files as series; prepare series as scaled data sets."""
