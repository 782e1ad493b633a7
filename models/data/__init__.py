"""Files to series, series to scaled data sets."""
