"""Measure and check gptcli on this machine."""
