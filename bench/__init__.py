"""Workloads, baselines and reports. It measures; nothing imports it."""
