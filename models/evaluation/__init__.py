"""Backtests, baselines, reports and figures."""
